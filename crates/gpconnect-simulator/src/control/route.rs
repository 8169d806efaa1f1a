//! Operation of the control interface, with the types of its body and its answer.

use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::messages::ControlParameters;
use super::{ControlError, bad_request};
use crate::SimulatedProvider;

/// Placeholder for an ODS code at the end of a path.
const ODS: &str = "{ods}";

/// Function that carries out an operation; the bytes are those of the body.
type Perform = Box<
    dyn Fn(&SimulatedProvider, &ControlParameters, &[u8]) -> Result<Value, ControlError>
        + Send
        + Sync,
>;
/// Function that returns the schema of a type.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Operation of the control interface.
pub struct ControlRoute {
    /// Name of the operation, such as `listRequests`.
    pub id: &'static str,
    /// Method of its requests.
    pub method: Method,
    /// Path below `/_simulator/`; `{ods}` stands for the ODS code of a practice.
    pub path: &'static str,
    /// Description in one sentence or more, for its users.
    pub description: &'static str,
    /// Names of the query parameters that it takes.
    pub query: &'static [&'static str],
    /// Schema of the request's body, or `None` if the body is ignored.
    pub body: Option<SchemaOf>,
    /// Schema of the answer's body.
    pub answer: SchemaOf,
    perform: Perform,
}

impl ControlRoute {
    /// Returns an operation that ignores the request's body.
    pub(super) fn new<A: Serialize + JsonSchema + 'static>(
        id: &'static str,
        method: Method,
        path: &'static str,
        perform: fn(&SimulatedProvider, &ControlParameters) -> Result<A, ControlError>,
    ) -> Self {
        let perform: Perform =
            Box::new(move |provider, parameters, _| as_json(perform(provider, parameters)?));
        let answer = SchemaGenerator::subschema_for::<A>;
        Self { id, method, path, description: "", query: &[], body: None, answer, perform }
    }

    /// Returns an operation that reads the request's body.
    pub(super) fn with_body<
        B: DeserializeOwned + JsonSchema + 'static,
        A: Serialize + JsonSchema + 'static,
    >(
        id: &'static str,
        method: Method,
        path: &'static str,
        perform: fn(&SimulatedProvider, &ControlParameters, B) -> Result<A, ControlError>,
    ) -> Self {
        let perform: Perform = Box::new(move |provider, parameters, body| {
            let body = serde_json::from_slice(body)
                .map_err(|fault| bad_request(format!("the body is invalid: {fault}")))?;
            as_json(perform(provider, parameters, body)?)
        });
        let answer = SchemaGenerator::subschema_for::<A>;
        let body: SchemaOf = SchemaGenerator::subschema_for::<B>;
        Self { id, method, path, description: "", query: &[], body: Some(body), answer, perform }
    }

    /// Returns the operation with this description.
    pub(super) fn does(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    /// Returns the operation with these query parameters.
    pub(super) fn takes(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    /// Returns the ODS code in a path of this operation, empty if it has none; or `None` if the path is another's.
    pub(super) fn ods_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.strip_suffix(ODS) {
            Some(before) => {
                path.strip_prefix(before).filter(|ods| !ods.is_empty() && !ods.contains('/'))
            }
            None => (path == self.path).then_some(""),
        }
    }

    /// Carries out the operation; `body` is the body of the request.
    pub(super) fn perform(
        &self,
        provider: &SimulatedProvider,
        parameters: &ControlParameters,
        body: &[u8],
    ) -> Result<Value, ControlError> {
        (self.perform)(provider, parameters, body)
    }
}

/// Returns an answer as JSON, with the members of each object in alphabetical order.
fn as_json(answer: impl Serialize) -> Result<Value, ControlError> {
    serde_json::to_value(answer)
        .map_err(|why| ControlError::new(StatusCode::INTERNAL_SERVER_ERROR, why.to_string()))
}
