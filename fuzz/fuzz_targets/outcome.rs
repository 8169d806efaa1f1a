//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/outcome.rs"]
mod outcome;

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcome::check(data));
