//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/sds_bundle.rs"]
mod sds_bundle;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sds_bundle::check(data));
