//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/claims.rs"]
mod claims;

libfuzzer_sys::fuzz_target!(|data: &[u8]| claims::check(data));
