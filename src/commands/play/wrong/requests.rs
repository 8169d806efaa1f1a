//! Requests that are right but for one thing.

use serde_json::Value;
use spine_types::Asid;

use super::super::super::call::client::{
    CallRequest, Caller, CallerHeader, SearchDays, TestConsumer, slots_query,
};
use super::super::{CaseEnd, Play};
use super::Prepared;
use crate::claims;
use crate::failure::Failure;
use crate::tls::KeyPair;

impl Play {
    /// Returns a search for slots at the first practice, which is right.
    pub(super) fn slots(&self) -> Prepared {
        let caller = self.caller(self.practice(0)?);
        let query = slots_query(&caller, &SearchDays::fortnight(None)?);
        Ok((caller, CallRequest::named("slots", None)?.with_query(&query)))
    }

    pub(super) fn slots_with(&self, headers: &[&str]) -> Prepared {
        let (caller, request) = self.slots()?;
        let headers = headers.iter().map(|header| CallerHeader::parse(header));
        let headers = headers.collect::<Result<_, _>>()?;
        Ok((caller, CallRequest { headers, ..request }))
    }

    pub(super) fn slots_claiming(&self, change: impl FnOnce(&mut Value)) -> Prepared {
        let (caller, request) = self.slots()?;
        let mut claims = caller.claims(request.interaction);
        change(&mut claims);
        self.slots_with(&[&format!("Authorization: Bearer {}", claims::mint(&claims))])
    }

    pub(super) fn slots_at(&self, root: &str) -> Prepared {
        let (caller, request) = self.slots()?;
        let target = Some(format!("/{root}{}", request.path));
        Ok((caller, CallRequest { target, ..request }))
    }

    pub(super) fn presenting(&self, certificate: Option<KeyPair>) -> Prepared {
        let (caller, request) = self.slots()?;
        Ok((caller.presenting(certificate)?, request))
    }

    pub(super) fn without_tls(&self) -> Prepared {
        let (mut caller, request) = self.slots()?;
        caller.server.is_https = false;
        Ok((caller, request))
    }

    pub(super) fn with_port(&self) -> Prepared {
        let practice = self.practice(0)?;
        let (host, path) = practice
            .root
            .strip_prefix("https://")
            .unwrap_or_default()
            .split_once('/')
            .unwrap_or_default();
        match host.contains(':') {
            true => Err(CaseEnd::NotPlayed("the service root has a port".to_owned())),
            false => self.slots_at(&format!("https://{host}:443/{path}")),
        }
    }

    pub(super) fn at_another_root(&self) -> Prepared {
        let (one, other) = (self.practice(0)?, self.practice(1)?);
        match one.root == other.root {
            true => Err(CaseEnd::NotPlayed("it needs two practices".to_owned())),
            false => self.slots_at(&other.root),
        }
    }

    pub(super) fn as_another(&self) -> Prepared {
        let missing = || CaseEnd::NotPlayed("it needs a second consumer".to_owned());
        let other = self.other_consumer(false).or_else(|| self.other_consumer(true));
        let asid: &Asid = &other.ok_or_else(missing)?.asid;
        self.slots_with(&[&format!("Ssp-From: {asid}")])
    }

    /// Returns the consumer without an agreement.
    pub(super) fn outsider(&self) -> Result<&TestConsumer, CaseEnd> {
        let missing = || "it needs a consumer without an agreement".to_owned();
        self.other_consumer(false).ok_or_else(|| CaseEnd::NotPlayed(missing()))
    }

    pub(super) fn without_agreement(&self) -> Prepared {
        let outsider = self.outsider()?;
        let (caller, request) = self.slots()?;
        Ok((self.as_consumer(outsider, &caller)?, request))
    }

    pub(super) fn not_registered(&self) -> Prepared {
        let outsider = self.outsider()?;
        let metadata = CallRequest::named("metadata", None)?;
        let of = |name: &String| name == "foundations" || name == metadata.interaction.id;
        if outsider.interactions.iter().any(of) {
            let why = "it needs a consumer without the interaction read:metadata";
            return Err(CaseEnd::NotPlayed(why.to_owned()));
        }
        let caller = self.caller(self.practice(0)?);
        Ok((self.as_consumer(outsider, &caller)?, metadata))
    }

    pub(super) fn to_closed(&self) -> Prepared {
        let missing = || "it needs a practice whose system does not answer".to_owned();
        let closed = self.parties.practices.iter().find(|practice| !practice.answers);
        let closed = closed.ok_or_else(|| CaseEnd::NotPlayed(missing()))?;
        Ok((self.caller(closed), CallRequest::named("metadata", None)?))
    }

    /// Returns another consumer as it calls the same practice.
    pub(in crate::commands::play) fn as_consumer(
        &self,
        consumer: &TestConsumer,
        caller: &Caller,
    ) -> Result<Caller, Failure> {
        let (asid, ods) = (consumer.asid.clone(), consumer.ods.clone());
        Caller { asid, consumer: ods, ..caller.clone() }.presenting(consumer.key_pair())
    }
}

/// Sets a claim, or removes it if the value is null.
pub(super) fn put(claims: &mut Value, name: &str, value: Value) {
    let Some(claims) = claims.as_object_mut() else { return };
    match value.is_null() {
        true => drop(claims.remove(name)),
        false => drop(claims.insert(name.to_owned(), value)),
    }
}
