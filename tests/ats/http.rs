//! Http: paths and methods that nobody has.

use super::case::{Case, Feature, Given, Row, any_failure, one, refused, row};
use super::request::{Request, ask};
use super::rig::Scene;

pub(super) const FEATURE: Feature = Feature { name: "Http", scenarios: 7, cases: 7, list };

const PATH: &str = "the interaction names another path, which the proxy sees first";
const METHOD: &str = "the interaction names another method, which the proxy sees first";
const VERB: &str = "the proxy takes GET, POST and PUT, and says 405 to the rest";

fn asked(method: &'static str, path: &'static str) -> impl Fn(&Scene) -> Request {
    move |_| ask("rest:read:metadata-1", path).method(method)
}

fn list() -> Vec<Case> {
    let bad = |method, path| row(path, Given::Nothing, asked(method, path), any_failure());
    let verb = |method| -> Row {
        let refusal = super::case::status(&[405]).token("method_not_allowed");
        bad(method, "/metadata").proxied(refusal, VERB)
    };
    vec![
        one(
            "Http GET from invalid endpoint",
            bad("GET", "/metadatas").proxied(refused("interaction_path"), PATH),
        ),
        one(
            "Http POST to invalid endpoint",
            bad("POST", "/metadatas").proxied(refused("interaction_method"), METHOD),
        ),
        one(
            "Http PUT to invalid endpoint",
            row("/metadatas", Given::Nothing, asked("PUT", "/metadatas"), any_failure().json())
                .proxied(refused("interaction_method").json(), METHOD),
        ),
        one("Http PATCH to valid endpoint", verb("PATCH")),
        one("Http DELETE to valid endpoint", verb("DELETE")),
        one("Http OPTIONS to valid endpoint", verb("OPTIONS")),
        one(
            "Http incorrect case on url fhir resource",
            bad("GET", "/Metadata").proxied(refused("interaction_path"), PATH),
        ),
    ]
}
