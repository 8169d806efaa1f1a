//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/provider_body.rs"]
mod provider_body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| provider_body::check(data));
