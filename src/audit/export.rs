//! Export of the journal: rows as the national service exports them, OpenTelemetry logs, and audit events of
//! BALP.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

mod balp;

/// A parsed line of the journal.
#[derive(Debug)]
pub struct ExportedLine(Map<String, Value>);

impl ExportedLine {
    /// Parses a line; returns `None` if it is not a JSON object.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok().map(Self)
    }

    /// Returns the text of a member; `None` if it is missing or not text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Returns the value of a member; `None` if it is missing or not a whole number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// Returns the time at which the line's exchange was opened.
    #[must_use]
    pub fn began(&self) -> Option<Timestamp> {
        self.time()?.saturating_sub(self.duration().unwrap_or_default()).ok()
    }

    /// Adds the members of another line of the same exchange that this one lacks.
    pub fn join(&mut self, other: Self) {
        for (name, value) in other.0 {
            self.0.entry(name).or_insert(value);
        }
    }

    fn duration(&self) -> Option<SignedDuration> {
        Some(SignedDuration::from_micros(self.number("duration_us")?.try_into().ok()?))
    }

    fn time(&self) -> Option<Timestamp> {
        self.text("time")?.parse().ok()
    }
}

/// Heading of [`row`]'s table, in the column order that public analytics of the national service expect.
pub const SSP_COLUMNS: &str = "\"_time\",sspFrom,sspTo,SspTraceId,interaction,responseCode,duration,responseSize,responseErrorMessage,method";

/// Returns an exchange as a row, from its `closed` line, or from its `opened` line if it was never closed;
/// `None` for the journal's lines about itself.
#[must_use]
pub fn row(line: &ExportedLine) -> Option<String> {
    let text = |name: &str| line.text(name).unwrap_or_default();
    let number = |name: &str| line.number(name).map(|number| number.to_string());
    let began = line.began()?;
    let (duration, size) = match text("event") {
        "opened" => (String::new(), String::new()),
        "closed" => {
            let took = line.duration()?;
            // Seconds with three decimals, as text.
            let took = format!("\"{}.{:03}\"", took.as_secs(), took.subsec_millis());
            (took, number("bytes_out").unwrap_or_default())
        }
        _ => return None,
    };
    let error = match (text("event"), text("outcome"), text("refusal")) {
        ("closed", "answered", _) => "None".to_owned(),
        ("closed", "refused", token) => token.to_owned(),
        ("closed", ..) => format!("aborted by {}", text("ended_by")),
        _ => String::new(),
    };
    let mut row = format!("\"{}\"", began.strftime("%Y-%m-%dT%H:%M:%S.%3f+0000"));
    let (status, method) = (number("status").unwrap_or_default(), text("method"));
    // Neither a trace id nor an interaction's id contains quotation marks.
    write!(
        row,
        ",{},{},\"{}\",\"{}\",{status},{duration},{size},{error},{method}",
        text("from"),
        text("to"),
        text("trace_id"),
        text("interaction"),
    )
    .ok()?;
    Some(row)
}

/// Returns a batch of lines as one line of OTLP JSON (`resourceLogs`), which collectors read from files.
///
/// Source: opentelemetry-proto, `logs/v1`, and its JSON mapping: 64-bit numbers are text, ids are
/// hexadecimal.
#[must_use]
pub fn otlp(lines: &[ExportedLine]) -> String {
    let records: Vec<_> = lines.iter().filter_map(record).collect();
    json!({"resourceLogs": [{
        "resource": {"attributes": [attribute("service.name", &json!("spine-proxy"))]},
        "scopeLogs": [{
            "scope": {"name": "spine_proxy.audit", "version": env!("CARGO_PKG_VERSION")},
            "logRecords": records,
        }],
    }]})
    .to_string()
}

fn record(line: &ExportedLine) -> Option<Value> {
    let at = line.time()?.as_nanosecond().to_string();
    let event = line.text("event")?;
    let (number, severity) = match (event, line.text("outcome"), line.text("ended_by")) {
        (_, _, Some("panic")) => (17, "ERROR"),
        ("unfinished", ..) | (_, Some("refused" | "aborted"), _) => (13, "WARN"),
        _ => (9, "INFO"),
    };
    let mut attributes = Vec::new();
    flatten("", &line.0, &mut attributes);
    let record = json!({
        "timeUnixNano": at,
        "observedTimeUnixNano": at,
        "severityNumber": number,
        "severityText": severity,
        "eventName": format!("spine_proxy.audit.{event}"),
        "body": {"stringValue": event},
        "attributes": attributes,
    });
    let trace_id = line.text("trace_id").map(|id| id.replace('-', "").to_ascii_lowercase());
    let Value::Object(mut record) = record else { return None };
    if let Some(trace_id) = trace_id.filter(|id| is_trace_id(id)) {
        record.insert("traceId".to_owned(), trace_id.into());
    }
    Some(record.into())
}

/// Returns true for sixteen bytes in hexadecimal that are not all zero.
fn is_trace_id(id: &str) -> bool {
    id.len() == 32
        && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && id.bytes().any(|byte| byte != b'0')
}

fn flatten(prefix: &str, members: &Map<String, Value>, to: &mut Vec<Value>) {
    for (name, value) in members {
        match (prefix, &**name, value) {
            ("", "time" | "event", _) => {}
            ("", "method", value) => to.push(attribute("http.request.method", value)),
            ("", "status", value) => to.push(attribute("http.response.status_code", value)),
            (_, _, Value::Object(members)) => flatten(&format!("{prefix}{name}."), members, to),
            _ => to.push(attribute(&format!("spine_proxy.{prefix}{name}"), value)),
        }
    }
}

fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::Bool(truth) => json!({"boolValue": truth}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            json!({"stringValue": value.to_string()})
        }
    };
    json!({"key": key, "value": value})
}
