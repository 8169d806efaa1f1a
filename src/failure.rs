//! Errors that end a command, and their exit codes.

/// Error that ends a command or refuses a reload, by the exit code that it leads to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An argument is missing or cannot be used: exit code 2, as for arguments that cannot be parsed.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// The arguments, the configuration or a file it names is wrong: exit code 78.
    #[error("{0:#}")]
    Configuration(anyhow::Error),
    /// A proof was asked for and something is not proven, while nothing contradicts it: exit code 3.
    #[error("{0:#}")]
    NotProven(anyhow::Error),
    /// The environment failed, or the command found what it checks for to be wrong: exit code 1.
    #[error("{0:#}")]
    Environment(anyhow::Error),
}

impl Failure {
    pub(crate) fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self::Configuration(error.into())
    }

    pub(crate) fn environment(error: impl Into<anyhow::Error>) -> Self {
        Self::Environment(error.into())
    }
}

/// An error of the system that nobody has named as the configuration's is the environment's.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::environment(error)
    }
}
