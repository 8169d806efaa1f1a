//! A request, right in everything until something about it is changed.

use serde_json::Value;
use spine_proxy::claims;
use spine_types::interaction;

use super::case::JSON;
use super::encode::xml;
use testkit::test_bed::{HUB, HUB_ODS, now_s};

const PROGRAMME: &str = "urn:nhs:names:services:gpconnect:fhir:";
/// The audience that the suite sends, whatever the provider.
const AUDIENCE: &str = "https://authorize.fhir.nhs.net/token";

/// A request about to be sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: &'static str,
    /// Path and query under the service root.
    pub(super) path: String,
    pub(super) interaction: String,
    /// Which of the rig's practices is asked.
    pub(super) practice: usize,
    headers: Vec<(&'static str, String)>,
    body: Body,
    pub(super) content: Option<&'static str>,
    claims: Value,
    bearer: bool,
    pub(super) certificate: &'static str,
    pub(super) hello: Hello,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Resource(Value),
    Text(String),
}

/// How the connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hello {
    /// The one that is open, or another like it.
    Usual,
    /// No TLS at all.
    Plain,
    /// TLS 1.2 with this suite and no other.
    Suite(rustls::CipherSuite),
    /// A bare hello that offers this suite and no other.
    Bare(u16),
}

/// A request under this interaction, `rest:search:slot-1` for short, to this path under the root.
pub(super) fn ask(short: &str, path: impl Into<String>) -> Request {
    let interaction = format!("{PROGRAMME}{short}");
    let known = interaction::by_id(&interaction).unwrap();
    let method = ["GET", "POST", "PUT"].into_iter().find(|method| known.method == *method);
    let organisation = HUB_ODS.parse().unwrap();
    let headers = [
        ("ssp-traceid", "09a01679-2564-4fb4-9129-aecc81ea2706"),
        ("ssp-from", HUB),
        ("accept", JSON),
    ];
    Request {
        method: method.unwrap(),
        path: path.into(),
        interaction,
        practice: 0,
        headers: headers.map(|(name, value)| (name, value.to_owned())).to_vec(),
        body: Body::None,
        content: None,
        claims: claims::example_claims(AUDIENCE, &organisation, known.scope, now_s()),
        bearer: true,
        certificate: "hub",
        hello: Hello::Usual,
    }
}

impl Request {
    pub(super) fn set(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn accept(self, media: &str) -> Self {
        self.set("accept", media)
    }

    pub(super) fn no_accept(mut self) -> Self {
        self.headers.retain(|(known, _)| *known != "accept");
        self
    }

    /// Adds a parameter, escaped, behind those that are there.
    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(&format!("{name}={}", escaped(value)));
        self
    }

    /// Another path under the root.
    pub(super) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub(super) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// Another interaction than the one that is asked for.
    pub(super) fn named(mut self, short: &str) -> Self {
        self.interaction = format!("{PROGRAMME}{short}");
        self
    }

    pub(super) fn practice(mut self, practice: usize) -> Self {
        self.practice = practice;
        self
    }

    /// A resource for a body, in JSON unless another content type is set.
    pub(super) fn resource(mut self, resource: Value) -> Self {
        self.body = Body::Resource(resource);
        self.content = self.content.or(Some(JSON));
        self
    }

    /// A body that is no resource.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.body = Body::Text(text.to_owned());
        self
    }

    /// The content type, and the format the resource is written in.
    pub(super) fn content(mut self, media: &'static str) -> Self {
        self.content = Some(media);
        self
    }

    /// Sets a claim; `null` removes it.
    pub(super) fn claim(mut self, name: &str, value: Value) -> Self {
        if value.is_null() {
            self.claims.as_object_mut().unwrap().remove(name);
        } else {
            self.claims[name] = value;
        }
        self
    }

    pub(super) fn scope(self, scope: &str) -> Self {
        self.claim("requested_scope", scope.into())
    }

    pub(super) fn claimed(&self, name: &str) -> Value {
        self.claims[name].clone()
    }

    /// No token at all.
    pub(super) fn no_token(mut self) -> Self {
        self.bearer = false;
        self
    }

    pub(super) fn certificate(mut self, name: &'static str) -> Self {
        self.certificate = name;
        self
    }

    pub(super) fn hello(mut self, hello: Hello) -> Self {
        self.hello = hello;
        self
    }

    /// The headers as they go out, but for those that name the receiver.
    pub(super) fn all_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = self.headers.clone();
        headers.push(("ssp-interactionid", self.interaction.clone()));
        if self.bearer {
            headers.push(("authorization", format!("Bearer {}", claims::mint(&self.claims))));
        }
        if let Some(content) = self.content {
            headers.push(("content-type", format!("{content};charset=utf-8")));
        }
        headers
    }

    pub(super) fn body(&self) -> String {
        match &self.body {
            Body::None => String::new(),
            Body::Text(text) => text.clone(),
            Body::Resource(resource) if self.content.is_some_and(|kind| kind.contains("xml")) => {
                xml(resource)
            }
            Body::Resource(resource) => resource.to_string(),
        }
    }
}

/// What a query's value may not hold, escaped.
pub(super) fn escaped(value: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:".contains(&byte);
    let escape = |byte: u8| match kept(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    value.bytes().map(escape).collect()
}
