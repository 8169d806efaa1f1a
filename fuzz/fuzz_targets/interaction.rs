//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/interaction.rs"]
mod interaction;

libfuzzer_sys::fuzz_target!(|data: &[u8]| interaction::check(data));
