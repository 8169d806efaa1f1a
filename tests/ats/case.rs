//! Cases as tables: what is given, what is asked, what each leg has to answer.

use std::rc::Rc;

use serde_json::Value;

use super::request::Request;
use super::rig::{Heard, Scene};

/// A feature file of the suite, with the counts its heading gives.
pub(super) struct Feature {
    pub(super) name: &'static str,
    pub(super) scenarios: usize,
    pub(super) cases: usize,
    pub(super) list: fn() -> Vec<Case>,
}

/// A scenario, under the name the suite has for it. Ours are named `plain: …`.
pub(super) struct Case {
    pub(super) scenario: &'static str,
    pub(super) rows: Vec<Row>,
    /// Rows that cannot be had of us; [`super::CANNOT`] says why.
    pub(super) cannot: usize,
}

/// One row of a scenario's examples.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) given: Given,
    pub(super) request: Rc<dyn Fn(&Scene) -> Request>,
    pub(super) direct: Expect,
    pub(super) proxied: Expect,
    /// Why the two legs answer differently, if they do.
    pub(super) why: Option<&'static str>,
}

/// What has to be there before the request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    Nothing,
    /// Two adjacent free slots.
    Slots,
    /// A free slot of this delivery channel.
    Channel(&'static str),
    /// What the practice offers to anybody.
    Offer,
    /// An appointment of patient 1, in free slots that nobody else has.
    Booked,
    /// The same, cancelled.
    Cancelled,
    /// Somebody who can be registered, once.
    Newcomer,
}

pub(super) fn case(scenario: &'static str, rows: Vec<Row>) -> Case {
    Case { scenario, rows, cannot: 0 }
}

/// A scenario without examples.
pub(super) fn one(scenario: &'static str, row: Row) -> Case {
    case(scenario, vec![row])
}

/// A row that both legs answer alike.
pub(super) fn row(
    name: impl Into<String>,
    given: Given,
    request: impl Fn(&Scene) -> Request + 'static,
    expect: Expect,
) -> Row {
    let proxied = expect.clone();
    Row { name: name.into(), given, request: Rc::new(request), direct: expect, proxied, why: None }
}

impl Row {
    /// Through the proxy the answer is another one, for this reason.
    pub(super) fn proxied(mut self, expect: Expect, why: &'static str) -> Self {
        self.proxied = expect;
        self.why = Some(why);
        self
    }
}

impl Case {
    /// So many more rows cannot be had of us.
    pub(super) fn but_not(mut self, rows: usize) -> Self {
        self.cannot = rows;
        self
    }
}

/// The two encodings of FHIR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Xml,
}

pub(super) const JSON: &str = "application/fhir+json";
pub(super) const XML: &str = "application/fhir+xml";

impl Format {
    pub(super) fn of(media: &str) -> Self {
        if media == XML { Self::Xml } else { Self::Json }
    }

    fn media(self) -> &'static str {
        if self == Self::Xml { XML } else { JSON }
    }
}

/// How a request ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Status(&'static [u16]),
    /// The suite: failure is any status but 200.
    Failure,
    /// No connection, or one that ends without an answer, or one of these statuses.
    TurnedAway(&'static [u16]),
}

type Judge = Rc<dyn Fn(&Heard, &Scene) -> bool>;

/// What has to be answered.
#[derive(Clone)]
pub(super) struct Expect {
    end: End,
    code: Option<&'static str>,
    outcome: bool,
    format: Option<Format>,
    kind: Option<&'static str>,
    etag: bool,
    no_store: bool,
    token: Option<&'static str>,
    more: Vec<(&'static str, Judge)>,
}

fn expect(end: End) -> Expect {
    Expect {
        end,
        code: None,
        outcome: false,
        format: None,
        kind: None,
        etag: false,
        no_store: false,
        token: None,
        more: Vec::new(),
    }
}

/// Exactly 200.
pub(super) fn ok() -> Expect {
    expect(End::Status(&[200]))
}

/// Exactly 201, with the place and version of what was made.
pub(super) fn created() -> Expect {
    expect(End::Status(&[201]))
        .etag()
        .says("a Location", |heard, _| heard.header("location").contains("Appointment/"))
}

/// One of these statuses, with an `OperationOutcome`.
pub(super) fn status(statuses: &'static [u16]) -> Expect {
    Expect { outcome: true, ..expect(End::Status(statuses)) }
}

/// An `OperationOutcome` with this Spine code, under a status that is not 200.
pub(super) fn failure(code: &'static str) -> Expect {
    Expect { code: Some(code), ..any_failure() }
}

/// Any `OperationOutcome`, under any status but 200.
pub(super) fn any_failure() -> Expect {
    Expect { outcome: true, ..expect(End::Failure) }
}

/// The connection refused, or closed without an answer, or one of these statuses.
pub(super) fn turned_away(statuses: &'static [u16]) -> Expect {
    expect(End::TurnedAway(statuses))
}

pub(super) fn bad_request() -> Expect {
    status(&[400]).code("BAD_REQUEST")
}

pub(super) fn invalid_resource() -> Expect {
    status(&[422]).code("INVALID_RESOURCE")
}

pub(super) fn invalid_parameter() -> Expect {
    status(&[422]).code("INVALID_PARAMETER")
}

/// The proxy itself refuses with 400, in a body as the suite wants it.
pub(super) fn refused(token: &'static str) -> Expect {
    bad_request().token(token)
}

impl Expect {
    pub(super) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(super) fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    pub(super) fn json(self) -> Self {
        self.format(Format::Json)
    }

    /// The resource that is answered with.
    pub(super) fn kind(mut self, kind: &'static str) -> Self {
        self.kind = Some(kind);
        self
    }

    pub(super) fn etag(mut self) -> Self {
        self.etag = true;
        self
    }

    pub(super) fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }

    /// The word of the proxy's own refusal.
    pub(super) fn token(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    /// Nothing but a head.
    pub(super) fn empty(self) -> Self {
        self.says("an empty body", |heard, _| heard.body.is_empty())
    }

    /// A body and its type, both said.
    pub(super) fn filled(self) -> Self {
        self.says("a body and its type", |heard, _| {
            !heard.body.is_empty()
                && !heard.header("content-type").is_empty()
                && heard.header("content-length") != "0"
        })
    }

    /// Anything else that has to be true of the answer.
    pub(super) fn says(
        mut self,
        what: &'static str,
        judge: impl Fn(&Heard, &Scene) -> bool + 'static,
    ) -> Self {
        self.more.push((what, Rc::new(judge)));
        self
    }

    /// The same of its JSON.
    pub(super) fn shows(
        self,
        what: &'static str,
        judge: impl Fn(&Value) -> bool + 'static,
    ) -> Self {
        self.says(what, move |heard, _| judge(&heard.json()))
    }

    /// What is not as it has to be, each in a few words.
    pub(super) fn judge(&self, heard: &Result<Heard, String>, scene: &Scene) -> Vec<String> {
        let heard = match (heard, &self.end) {
            (Ok(heard), _) => heard,
            (Err(_), End::TurnedAway(_)) => return Vec::new(),
            (Err(closed), _) => return vec![format!("no answer: {closed}")],
        };
        let right = match &self.end {
            End::Status(statuses) | End::TurnedAway(statuses) => statuses.contains(&heard.status),
            End::Failure => heard.status != 200,
        };
        let mut faults = Vec::new();
        let mut must = |kept: bool, otherwise: String| {
            if !kept {
                faults.push(otherwise);
            }
        };
        must(right, format!("status {} and not {:?}", heard.status, self.end));
        let kind = if self.outcome { Some("OperationOutcome") } else { self.kind };
        if let Some(kind) = kind {
            must(heard.is(kind), format!("no {kind}"));
        }
        if let Some(code) = self.code {
            must(heard.code() == code, format!("code {} and not {code}", heard.code()));
        }
        if let Some(format) = self.format {
            let kind = heard.header("content-type");
            must(kind.starts_with(format.media()), format!("content type {kind:?}"));
            must(heard.is_encoded(format), format!("the body is not {format:?}"));
        }
        let etag = heard.header("etag");
        let versioned = etag.starts_with("W/\"") && etag.ends_with('"') && etag.len() > 4;
        must(!self.etag || versioned, format!("ETag {etag:?}"));
        let stored = heard.header("cache-control");
        must(!self.no_store || stored.contains("no-store"), format!("Cache-Control {stored:?}"));
        if let Some(token) = self.token {
            must(heard.token() == token, format!("refused as {:?} and not {token}", heard.token()));
        }
        for (what, judge) in &self.more {
            must(judge(heard, scene), format!("without {what}"));
        }
        if !faults.is_empty() {
            faults.push(heard.gist());
        }
        faults
    }
}

/// The rows of a scenario that asks for each format in each way; the response is in the format
/// asked for.
pub(super) struct Formats<F> {
    pub(super) given: Given,
    pub(super) request: F,
    pub(super) expect: Expect,
}

impl<F: Fn(&Scene) -> Request + Clone + 'static> Formats<F> {
    fn row(
        &self,
        name: String,
        wanted: &str,
        change: impl Fn(Request) -> Request + 'static,
    ) -> Row {
        let request = self.request.clone();
        let expect = self.expect.clone().format(Format::of(wanted));
        row(name, self.given, move |scene| change(request(scene)), expect)
    }

    /// By `Accept` alone: two rows.
    pub(super) fn by_accept(&self) -> Vec<Row> {
        let row = |accept: &'static str| {
            self.row(format!("Accept {accept}"), accept, move |request| request.accept(accept))
        };
        vec![row(JSON), row(XML)]
    }

    /// By `_format`, and no `Accept`: two rows.
    pub(super) fn by_format(&self) -> Vec<Row> {
        let row = |format: &'static str| {
            self.row(format!("_format {format}"), format, move |request| {
                request.no_accept().query("_format", format)
            })
        };
        vec![row(JSON), row(XML)]
    }

    /// By both, of which `_format` wins: four rows.
    pub(super) fn by_both(&self) -> Vec<Row> {
        let row = |accept: &'static str, format: &'static str| {
            self.row(format!("Accept {accept} _format {format}"), format, move |request| {
                request.accept(accept).query("_format", format)
            })
        };
        vec![row(JSON, JSON), row(JSON, XML), row(XML, JSON), row(XML, XML)]
    }

    /// By `_format`, with a body in either format: four rows.
    pub(super) fn by_content_and_format(&self) -> Vec<Row> {
        let row = |content: &'static str, format: &'static str| {
            self.row(format!("body {content} _format {format}"), format, move |request| {
                request.content(content).no_accept().query("_format", format)
            })
        };
        vec![row(XML, XML), row(JSON, JSON), row(XML, JSON), row(JSON, XML)]
    }

    /// By `Accept`, with a body in either format: four rows.
    pub(super) fn by_content_and_accept(&self) -> Vec<Row> {
        let row = |content: &'static str, accept: &'static str| {
            self.row(format!("body {content} Accept {accept}"), accept, move |request| {
                request.content(content).accept(accept)
            })
        };
        vec![row(XML, XML), row(JSON, JSON), row(XML, JSON), row(JSON, XML)]
    }

    /// By all three: eight rows.
    pub(super) fn by_all(&self) -> Vec<Row> {
        let row = |content: &'static str, accept: &'static str, format: &'static str| {
            let name = format!("body {content} Accept {accept} _format {format}");
            self.row(name, format, move |request| {
                request.content(content).accept(accept).query("_format", format)
            })
        };
        let both = [JSON, XML];
        let all =
            both.map(|content| both.map(|accept| both.map(|format| row(content, accept, format))));
        all.into_iter().flatten().flatten().collect()
    }
}
