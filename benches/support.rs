//! What the benches share: the tests' own stage, and the program over it as a process.

#[path = "../tests/support/authority.rs"]
pub(crate) mod authority;
#[path = "../tests/support/call.rs"]
pub(crate) mod call;
pub(crate) mod figures;
#[path = "../tests/support/files.rs"]
pub(crate) mod files;
#[path = "../tests/support/frames.rs"]
pub(crate) mod frames;
#[path = "../tests/support/heads.rs"]
pub(crate) mod heads;
#[path = "../tests/support/process.rs"]
pub(crate) mod process;
pub(crate) mod program;
#[path = "../tests/support/provider.rs"]
pub(crate) mod provider;
#[path = "../tests/support/sds.rs"]
pub(crate) mod sds;
pub(crate) mod servers;
#[path = "../tests/support/stage.rs"]
pub(crate) mod stage;
#[path = "../tests/support/swept.rs"]
pub(crate) mod swept;
#[path = "../tests/support/valgrind.rs"]
pub(crate) mod valgrind;
#[path = "../tests/support/way.rs"]
pub(crate) mod way;
#[path = "../tests/support/wire.rs"]
pub(crate) mod wire;

pub(crate) use call::Call;
pub(crate) use stage::Stage;
