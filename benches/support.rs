//! Parts that the benches share: the program as a process, other servers beside it, and figures.

pub(crate) mod figures;
pub(crate) mod program;
pub(crate) mod servers;
