//! Feeds libFuzzer's inputs to the property of its name, which says what is checked.
#![no_main]

#[path = "../targets/trace_context.rs"]
mod trace_context;

libfuzzer_sys::fuzz_target!(|data: &[u8]| trace_context::check(data));
