//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/target.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::check(data));
