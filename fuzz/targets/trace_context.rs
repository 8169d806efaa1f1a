//! The headers `traceparent` and `tracestate`. One that is continued is as W3C Trace Context has it, by other
//! means, and what is passed on keeps to the limits.
//!
//! The lines of the input are values of `traceparent`, as long as they do not begin with `s`, and then of
//! `tracestate`.

use http::{HeaderMap, HeaderValue};
use spine_proxy::fuzzing::{ContinuedContext, continued_context};

pub(crate) fn check(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let (name, value) = match line.strip_prefix(b"s") {
            Some(state) => ("tracestate", state),
            None => ("traceparent", line),
        };
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        headers.append(name, value);
    }
    let Some(ContinuedContext { trace_id, parent_id, is_sampled, passes_state }) =
        continued_context(&headers)
    else {
        return;
    };
    let mut parents = headers.get_all("traceparent").iter();
    let parent = parents.next().unwrap().to_str().expect("text");
    assert!(parents.next().is_none(), "several contexts");
    let [version, trace, span, flags] = parent.splitn(4, '-').collect::<Vec<_>>()[..] else {
        panic!("{parent}")
    };
    assert!(!parent[..55].contains(|c: char| c.is_ascii_uppercase()));
    assert!(version.len() == 2 && version != "ff");
    assert!(version != "00" || parent.len() == 55);
    assert_eq!(u128::from_str_radix(trace, 16).unwrap(), u128::from_be_bytes(trace_id));
    assert_eq!(u64::from_str_radix(span, 16).unwrap(), u64::from_be_bytes(parent_id));
    assert!(trace_id != [0; 16] && parent_id != [0; 8]);
    let flags = u8::from_str_radix(&flags[..2], 16).unwrap();
    assert_eq!(flags % 2 == 1, is_sampled);
    if passes_state {
        let lines: Vec<_> = headers.get_all("tracestate").iter().collect();
        let lines: Vec<_> = lines.iter().map(|line| line.to_str().expect("text")).collect();
        let state = lines.join(",");
        let members: Vec<_> =
            state.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
        assert!(state.len() <= 512 && members.len() <= 32, "{state}");
        assert!(members.iter().all(|one| one.split('=').count() == 2), "{state}");
    }
}
