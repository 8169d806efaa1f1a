//! Results as JUnit XML, as test servers read it.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::super::play::{CaseOutcome, PlayedCase, UnexpectedAnswer, counts};

/// Report of a run.
pub(super) struct JunitReport {
    /// Names and values that describe the run.
    properties: Vec<(&'static str, String)>,
    began: Timestamp,
}

/// Parts of a run, each a test suite.
const SUITES: [&str; 4] = ["sessions", "refusals", "run", "clean-up"];

impl JunitReport {
    /// Creates the report of a run that begins now.
    pub(super) fn new(properties: Vec<(&'static str, String)>) -> Self {
        Self { properties, began: Timestamp::now() }
    }

    /// Returns the document.
    pub(super) fn xml(&self, cases: &[PlayedCase], took: Duration) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let (failed, _, skipped) = counts(cases);
        let counted = format!(
            "tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\"",
            cases.len()
        );
        let whole = format!(
            "<testsuites name=\"spine-proxy conform\" {counted} time=\"{}\">\n",
            seconds(took)
        );
        xml.push_str(&whole);
        for suite in SUITES {
            let of_suite: Vec<_> = cases.iter().filter(|case| case.part == suite).collect();
            if !of_suite.is_empty() {
                self.write_suite(&mut xml, suite, &of_suite);
            }
        }
        xml.push_str("</testsuites>\n");
        xml
    }

    fn write_suite(&self, xml: &mut String, suite: &str, cases: &[&PlayedCase]) {
        let (failed, _, skipped) = counts(cases.iter().copied());
        let took = cases.iter().map(|case| case.took).sum();
        let began = self.began.strftime("%Y-%m-%dT%H:%M:%S");
        let mut suite_xml = format!(
            "  <testsuite name=\"{suite}\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" \
             skipped=\"{skipped}\" time=\"{}\" timestamp=\"{began}\">\n    <properties>\n",
            cases.len(),
            seconds(took)
        );
        for (name, value) in &self.properties {
            let value = escaped(value);
            let row = format!("      <property name=\"{name}\" value=\"{value}\"/>\n");
            suite_xml.push_str(&row);
        }
        suite_xml.push_str("    </properties>\n");
        for case in cases {
            write_case(&mut suite_xml, case).unwrap_or_default();
        }
        suite_xml.push_str("  </testsuite>\n");
        xml.push_str(&suite_xml);
    }
}

fn write_case(xml: &mut String, case: &PlayedCase) -> std::fmt::Result {
    let PlayedCase { part, name, outcome, took } = case;
    let (name, took) = (escaped(name), seconds(*took));
    write!(xml, "    <testcase classname=\"{part}\" name=\"{name}\" time=\"{took}\"")?;
    match outcome {
        CaseOutcome::Passed => writeln!(xml, "/>"),
        CaseOutcome::Skipped(why) => {
            writeln!(xml, ">\n      <skipped message=\"{}\"/>\n    </testcase>", escaped(why))
        }
        CaseOutcome::Failed(UnexpectedAnswer { expected, received }) => {
            let (expected, received) = (escaped(expected), escaped(received));
            writeln!(
                xml,
                ">\n      <failure type=\"unexpected answer\" message=\"{received}\">expected: \
                 {expected}\nreceived: {received}</failure>\n    </testcase>"
            )
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

/// Escapes a text for an attribute or an element; characters that XML cannot hold are replaced.
///
/// Spec: XML 1.0, section 2.2, for the characters, and 3.3.3 for white space in attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            '\0'..='\x1f' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push(char::REPLACEMENT_CHARACTER);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_ends_its_attribute_or_element() {
        let text = "a<b>&\"c'\u{1b}[31m\0\u{ffff}\né</failure>";
        let escaped = escaped(text);
        assert_eq!(
            escaped,
            "a&lt;b&gt;&amp;&quot;c'\u{fffd}[31m\u{fffd}\u{fffd}&#10;é&lt;/failure&gt;"
        );
    }
}
