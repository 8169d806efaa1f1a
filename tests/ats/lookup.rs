//! What the searches by identifier and the reads by id have in common.

use super::case::{Expect, Format, Formats, Given, JSON, Row, XML, bad_request, ok, refused, row};
use super::request::{Request, ask};
use super::rig::Scene;

pub(super) const NOBODY: &str =
    "a path without an id is not this interaction's, and the proxy sees it first";
const MISMATCH: &str = "the interaction names another path, which the proxy sees first";

/// Ids that are well formed and nobody's.
const IDS: [&str; 6] = ["aaBA", "1ZEc2", "z.as.dd", "1.1.22", "40-9", "nd-skdm.mks--s"];

pub(super) fn ids(row: impl Fn(&'static str) -> Row) -> Vec<Row> {
    IDS.map(row).into()
}

/// A request under an interaction that is not its own.
pub(super) fn misnamed(request: Request, interaction: &'static str) -> Row {
    let asked = move |_: &Scene| request.clone().named(interaction);
    row(interaction, Given::Nothing, asked, bad_request().no_store())
        .proxied(refused("interaction_path").no_store(), MISMATCH)
}

/// A search by identifier, for the formats it may be answered in.
#[derive(Clone)]
pub(super) struct Search {
    pub(super) interaction: &'static str,
    pub(super) path: &'static str,
    pub(super) identifier: String,
}

fn found() -> Expect {
    ok().kind("Bundle").no_store()
}

impl Search {
    pub(super) fn request(&self) -> Request {
        self.blank().query("identifier", &self.identifier)
    }

    pub(super) fn blank(&self) -> Request {
        ask(self.interaction, self.path)
    }

    fn formats(&self) -> Formats<impl Fn(&Scene) -> Request + Clone + 'static> {
        let search = self.clone();
        let request = move |_: &Scene| search.request();
        Formats { given: Given::Nothing, request, expect: found() }
    }

    pub(super) fn by_accept(&self) -> Vec<Row> {
        self.formats().by_accept()
    }

    pub(super) fn by_format(&self) -> Vec<Row> {
        self.formats().by_format()
    }

    /// `_format` behind the identifier, with each `Accept`: four rows.
    pub(super) fn after(&self) -> Vec<Row> {
        self.formats().by_both()
    }

    /// `_format` before the identifier, with each `Accept`: four rows.
    pub(super) fn before(&self) -> Vec<Row> {
        let row = |accept: &'static str, format: &'static str| {
            let search = self.clone();
            let request = move |_: &Scene| {
                let request = search.blank().query("_format", format).accept(accept);
                request.query("identifier", &search.identifier)
            };
            let expect = found().format(Format::of(format));
            row(format!("Accept {accept} _format {format}"), Given::Nothing, request, expect)
        };
        vec![row(JSON, JSON), row(XML, XML), row(JSON, XML), row(XML, JSON)]
    }

    /// The two rows of these whose format is asked for in two ways that differ.
    pub(super) fn differing(&self) -> Vec<Row> {
        self.after().into_iter().skip(1).take(2).collect()
    }

    /// `_format` behind, or before, and the same `Accept`: two rows.
    pub(super) fn alike(rows: Vec<Row>) -> Vec<Row> {
        let alike = |row: &Row| {
            let media: Vec<&str> = row.name.split(' ').filter(|word| word.contains('/')).collect();
            media[0] == media[1]
        };
        rows.into_iter().filter(alike).collect()
    }
}
