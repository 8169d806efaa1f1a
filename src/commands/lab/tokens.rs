//! Bearer tokens of a lab, in files that are written anew long before the tokens expire.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Map, Value};
use spine_types::OdsCode;
use spine_types::interaction::CATALOGUE;
use tokio_util::sync::CancellationToken;

use super::super::certs::replace;
use super::settings::{LabConsumer, LabPractice, LabSettings};
use crate::claims;

/// Interval at which tokens, which are valid for five minutes, are written anew.
const RENEWAL: Duration = Duration::from_secs(60);

/// Files with a token for each consumer, practice and scope.
pub(super) struct TokenFiles(Vec<TokenFile>);

/// File with a token, and what the token says.
struct TokenFile {
    path: PathBuf,
    audience: String,
    organisation: OdsCode,
    scope: &'static str,
}

impl TokenFiles {
    /// Creates the folders of the files inside that of a lab, and writes all files.
    pub(super) fn create(folder: &Path, settings: &LabSettings) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for practice in &settings.practices {
            for consumer in &settings.consumers {
                let within = within(folder, practice, consumer);
                std::fs::create_dir_all(&within)
                    .with_context(|| format!("cannot create the folder {}", within.display()))?;
                files.extend(scopes().into_iter().map(|scope| TokenFile {
                    path: within.join(file_name(scope)),
                    audience: practice.root(),
                    organisation: consumer.ods.clone(),
                    scope,
                }));
            }
        }
        let files = Self(files);
        files.write()?;
        Ok(files)
    }

    /// Writes a new token into each file; returns the first error.
    fn write(&self) -> anyhow::Result<()> {
        let now_s = Timestamp::now().as_second();
        let write = |file: &TokenFile| {
            let TokenFile { path, audience, organisation, scope } = file;
            let claims = claims::example_claims(audience, organisation, scope, now_s);
            replace(path, &claims::mint(&claims))
        };
        // A file that cannot be written keeps no other from being renewed.
        let written: Vec<_> = self.0.iter().map(write).collect();
        written.into_iter().collect()
    }

    /// Writes the files anew at each [`RENEWAL`] until it is told to stop.
    pub(super) async fn renew(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(RENEWAL)).await.is_some() {
            if let Err(error) = self.write() {
                tracing::error!(error = format!("{error:#}"), "the tokens could not be renewed");
            }
        }
    }
}

/// Returns the paths of the token files for a practice, by the consumer's name and the scope.
pub(super) fn described(folder: &Path, practice: &LabPractice, consumers: &[LabConsumer]) -> Value {
    let of_consumer = |consumer: &LabConsumer| {
        let within = within(folder, practice, consumer);
        let path = |scope| within.join(file_name(scope)).display().to_string();
        let files = scopes().into_iter().map(|scope| (scope.to_owned(), path(scope).into()));
        (consumer.name.clone(), Value::Object(files.collect()))
    };
    Value::Object(consumers.iter().map(of_consumer).collect::<Map<_, _>>())
}

/// Returns the folder of the tokens that a consumer sends to a practice.
fn within(folder: &Path, practice: &LabPractice, consumer: &LabConsumer) -> PathBuf {
    folder.join("tokens").join(&consumer.name).join(practice.ods.as_str())
}

fn scopes() -> BTreeSet<&'static str> {
    CATALOGUE.iter().map(|interaction| interaction.scope).collect()
}

/// Returns the name of the file for a scope, such as `organization-read.jwt` for `organization/*.read`.
fn file_name(scope: &str) -> String {
    format!("{}.jwt", scope.replace("/*.", "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time is not waited for: it advances when nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn tokens_are_written_anew_before_they_expire_until_the_lab_ends() {
        let folder = tempfile::tempdir().unwrap();
        let settings = LabSettings::demonstration();
        let files = TokenFiles::create(folder.path(), &settings).unwrap();
        let path = folder.path().join("tokens/night/F85001/patient-write.jwt");
        let token = std::fs::read_to_string(&path).unwrap();
        let stop = CancellationToken::new();
        let renewal = tokio::spawn(files.renew(stop.clone()));
        std::fs::remove_dir_all(folder.path().join("tokens/clinic/A20047")).unwrap();
        for _ in 0..2 {
            std::fs::remove_file(&path).unwrap();
            tokio::time::sleep(RENEWAL + Duration::from_secs(1)).await;
            let renewed = std::fs::read_to_string(&path).unwrap();
            assert_eq!(renewed.len(), token.len(), "{renewed}");
        }
        stop.cancel();
        renewal.await.unwrap();
    }
}
