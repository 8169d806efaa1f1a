//! SHA-256 of bytes as text.

use aws_lc_rs::digest::{SHA256, digest};

/// Returns the SHA-256 of these bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
