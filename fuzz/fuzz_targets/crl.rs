//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/crl.rs"]
mod crl;

libfuzzer_sys::fuzz_target!(|data: &[u8]| crl::check(data));
