//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/explain.rs"]
mod explain;

libfuzzer_sys::fuzz_target!(|data: &[u8]| explain::check(data));
