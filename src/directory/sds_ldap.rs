//! SDS itself: LDAPS with mutual TLS, one search for one question, typed rows.
//!
//! Spec: the server answers in its own spelling of attribute names, whatever was asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, Scope, SearchEntry, StdStream, ldap_escape};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;

use super::source::{
    AccreditedSystem, Handler, HandlersOf, QueryOptions, SourceFault, SystemsOf, watch_over,
};
use crate::interaction;
use crate::tls::DirectoryLeg;

mod relay;

/// SDS over LDAP, as configured.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LdapSettings {
    /// The server, for example `ldaps://ldap.national.ncrs.nhs.uk:636`. Its certificate must have
    /// this name.
    pub url: String,
    /// `host:port` to dial instead of the URL's own.
    pub dial: Option<String>,
    /// Where records hang.
    #[serde(default = "base")]
    pub base: String,
    /// How both ends prove themselves.
    pub tls: DirectoryLeg,
}

fn base() -> String {
    "ou=services,o=nhs".to_owned()
}

/// The client.
pub(super) struct SdsLdap {
    url: String,
    address: String,
    /// The host of the URL, whose name the certificate must have.
    host: ServerName<'static>,
    base: String,
    tls: Arc<ClientConfig>,
    connect: Duration,
    attempt: Duration,
    kept: Mutex<Option<Ldap>>,
}

const HANDLER: [&str; 6] =
    ["nhsIDCode", "nhsMHSPartyKey", "nhsMhsSvcIA", "nhsMHSEndPoint", "nhsMhsCPAId", "nhsMhsFQDN"];
const SYSTEM: [&str; 4] = ["nhsIDCode", "nhsMHSPartyKey", "nhsAsSvcIA", "uniqueIdentifier"];

impl SdsLdap {
    /// A client that has asked nothing yet.
    ///
    /// # Errors
    /// What is wrong with the URL, for people.
    pub(super) fn new(
        settings: &LdapSettings,
        tls: Arc<ClientConfig>,
        (connect, attempt): (Duration, Duration),
    ) -> Result<Self, String> {
        let authority =
            settings.url.strip_prefix("ldaps://").map(|rest| rest.trim_end_matches('/'));
        let authority =
            authority.filter(|rest| !rest.is_empty() && !rest.contains(['/', '?', '@']));
        let authority =
            authority.ok_or_else(|| format!("{:?} is not ldaps:// and a host", settings.url))?;
        let port = if authority.contains(':') { "" } else { ":636" };
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host =
            ServerName::try_from(host).map_err(|why| format!("{:?}: {why}", settings.url))?;
        Ok(Self {
            host,
            url: format!("ldaps://{authority}"),
            address: settings.dial.clone().unwrap_or_else(|| format!("{authority}{port}")),
            base: settings.base.clone(),
            tls,
            connect,
            attempt,
            kept: Mutex::new(None),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn handlers(
        &self,
        asked: &HandlersOf<'_>,
        how: QueryOptions<'_>,
    ) -> Result<Vec<Handler>, SourceFault> {
        let mut filter = LdapFilter::new("nhsMhs");
        if let Some(ods) = asked.ods {
            filter.and("nhsIDCode", ods.as_str());
        }
        if let Some(party_key) = asked.party_key {
            filter.and("nhsMHSPartyKey", party_key.as_str());
        }
        if let Some(interaction) = asked.interaction {
            filter.and("nhsMhsSvcIA", interaction.id);
        }
        let rows = self.search(&filter.whole(), &HANDLER, how).await?;
        Ok(rows.iter().map(LdapRecord::handlers).collect::<Result<Vec<_>, _>>()?.concat())
    }

    pub(super) async fn systems(
        &self,
        asked: &SystemsOf<'_>,
        how: QueryOptions<'_>,
    ) -> Result<Vec<AccreditedSystem>, SourceFault> {
        let mut filter = LdapFilter::new("nhsAs");
        match asked {
            SystemsOf::Asid(asid) => filter.and("uniqueIdentifier", asid.as_str()),
            SystemsOf::Practice { ods, party_key, .. } => {
                filter.and("nhsIDCode", ods.as_str());
                filter.and("nhsMHSPartyKey", party_key.as_str());
            }
        }
        self.search(&filter.whole(), &SYSTEM, how).await?.iter().map(LdapRecord::system).collect()
    }

    async fn search(
        &self,
        filter: &str,
        attributes: &[&'static str],
        how: QueryOptions<'_>,
    ) -> Result<Vec<LdapRecord>, SourceFault> {
        let (deadline, slow) = how.limit(self.attempt);
        let search = async {
            let (ldap, kept) = self.connection().await?;
            match self.ask(ldap, filter, attributes).await {
                // The server has ended a connection that was kept: that says nothing about it.
                Err(SourceFault::Unavailable(_)) if kept => {
                    *self.kept.lock().await = None;
                    let (ldap, _) = self.connection().await?;
                    self.ask(ldap, filter, attributes).await
                }
                answer => answer,
            }
        };
        let answer = timeout_at(deadline, search).await.map_err(|_| slow);
        let answer = answer.and_then(|answer| answer);
        if answer.is_err() {
            // Whatever it was, the next question starts from a connection of its own. Who holds the
            // lock is making one.
            if let Ok(mut kept) = self.kept.try_lock() {
                *kept = None;
            }
        }
        answer
    }

    async fn ask(
        &self,
        mut ldap: Ldap,
        filter: &str,
        attributes: &[&'static str],
    ) -> Result<Vec<LdapRecord>, SourceFault> {
        let found = ldap.search(&self.base, Scope::Subtree, filter, attributes.to_vec()).await;
        let ldap3::SearchResult(entries, result) = found.map_err(|why| unavailable(&why))?;
        judge(result.rc, &result.text)?;
        // What another server holds is not in this answer.
        if !result.refs.is_empty() {
            return Err(SourceFault::Truncated);
        }
        Ok(entries
            .into_iter()
            .map(|entry| LdapRecord::new(SearchEntry::construct(entry)))
            .collect())
    }

    /// The connection kept, or a new one; and which of the two it is.
    async fn connection(&self) -> Result<(Ldap, bool), SourceFault> {
        let mut kept = self.kept.lock().await;
        if let Some(ldap) = kept.as_mut()
            && !ldap.is_closed()
        {
            return Ok((ldap.clone(), true));
        }
        let ldap = self.open().await?;
        *kept = Some(ldap.clone());
        Ok((ldap, false))
    }

    /// Spec: LDAPS from the first byte, mutual TLS, then an anonymous bind.
    async fn open(&self) -> Result<Ldap, SourceFault> {
        let connect = tokio::time::timeout(self.connect, TcpStream::connect(&self.address));
        let stream = connect.await.map_err(|_| SourceFault::TimedOut)?;
        let stream = stream.map_err(|why| unavailable(&why))?;
        watch_over(&stream, self.attempt);
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(self.host.clone(), stream).await;
        // Security: the library takes whatever comes.
        let stream = stream.and_then(relay::between).map_err(|why| unavailable(&why))?;
        let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(stream));
        let opened = LdapConnAsync::with_settings(settings, "ldapi:///").await;
        let (connection, mut ldap) = opened.map_err(|why| unavailable(&why))?;
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "connection to SDS ended");
            }
        });
        let bound = ldap.simple_bind("", "").await.map_err(|why| unavailable(&why))?;
        judge(bound.rc, &bound.text)?;
        Ok(ldap)
    }
}

impl std::fmt::Debug for SdsLdap {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SdsLdap").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Result codes as faults. A search that ran into a limit is never taken for complete, and a base
/// that is not there is a mistake of ours, not an absence: searches hang below it.
fn judge(code: u32, text: &str) -> Result<(), SourceFault> {
    let told = || format!("result code {code} {text}").trim_end().to_owned();
    match code {
        0 => Ok(()),
        3 => Err(SourceFault::TimedOut),
        4 | 11 => Err(SourceFault::Truncated),
        48..=50 => Err(SourceFault::Denied(told())),
        32 | 34 => Err(SourceFault::OurFault(told())),
        _ => Err(SourceFault::Unavailable(told())),
    }
}

fn unavailable(why: &dyn std::fmt::Display) -> SourceFault {
    SourceFault::Unavailable(why.to_string())
}

/// A filter under construction. Security: every value is escaped, typed or not.
struct LdapFilter(String);

impl LdapFilter {
    fn new(class: &str) -> Self {
        Self(format!("(&(objectClass={class})"))
    }

    fn and(&mut self, attribute: &str, value: &str) {
        let clause = format!("({attribute}={})", ldap_escape(value));
        self.0.push_str(&clause);
    }

    fn whole(mut self) -> String {
        self.0.push(')');
        self.0
    }
}

/// One record, its attribute names in lower case.
struct LdapRecord(HashMap<String, Vec<String>>);

impl LdapRecord {
    fn new(entry: SearchEntry) -> Self {
        let lower = |(name, values): (String, _)| (name.to_ascii_lowercase(), values);
        Self(entry.attrs.into_iter().map(lower).collect())
    }

    fn all(&self, attribute: &str) -> &[String] {
        self.0.get(&attribute.to_ascii_lowercase()).map(Vec::as_slice).unwrap_or_default()
    }

    fn one(&self, attribute: &str) -> Option<&str> {
        self.all(attribute).first().map(|value| value.trim())
    }

    /// Security: who a record is about is never settled by which value came first.
    fn only(&self, attribute: &str) -> Result<Option<&str>, SourceFault> {
        match self.all(attribute).len() {
            0 | 1 => Ok(self.one(attribute)),
            _ => Err(SourceFault::Malformed(format!("a record with several {attribute}"))),
        }
    }

    fn required<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        attribute: &str,
    ) -> Result<T, SourceFault> {
        let value = self.only(attribute)?;
        let value =
            value.ok_or_else(|| SourceFault::Malformed(format!("a record without {attribute}")))?;
        value.parse().map_err(|why: T::Err| SourceFault::Malformed(format!("{attribute}: {why}")))
    }

    /// One for each address, as the FHIR API has it: two addresses are an ambiguity, whoever asks.
    fn handlers(&self) -> Result<Vec<Handler>, SourceFault> {
        let handler = Handler {
            ods: Some(self.ods()?),
            party_key: self.required("nhsMHSPartyKey")?,
            interaction: self.one("nhsMhsSvcIA").and_then(interaction::by_id),
            address: None,
            // Known to people alone; one that cannot be read is as good as none.
            cpa_id: self.one("nhsMhsCPAId").and_then(|id| id.parse().ok()),
            fqdn: self.one("nhsMhsFQDN").and_then(|name| name.to_ascii_lowercase().parse().ok()),
        };
        let addresses = self.all("nhsMHSEndPoint");
        if addresses.is_empty() {
            return Ok(vec![handler]);
        }
        let at = |address: &String| Handler { address: Some(address.clone()), ..handler.clone() };
        Ok(addresses.iter().map(at).collect())
    }

    fn system(&self) -> Result<AccreditedSystem, SourceFault> {
        Ok(AccreditedSystem {
            asid: self.required("uniqueIdentifier")?,
            ods: Some(self.ods()?),
            party_key: self.required("nhsMHSPartyKey")?,
            interactions: self
                .all("nhsAsSvcIA")
                .iter()
                .filter_map(|id| interaction::by_id(id.trim()))
                .collect(),
        })
    }

    fn ods(&self) -> Result<crate::spine::OdsCode, SourceFault> {
        let text = self.only("nhsIDCode")?.unwrap_or_default();
        crate::spine::OdsCode::from_any_case(text)
            .map_err(|why| SourceFault::Malformed(format!("nhsIDCode: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_cannot_be_broken_out_of() {
        let mut filter = LdapFilter::new("nhsMhs");
        filter.and("nhsIDCode", "*)(objectClass=*\0");
        assert_eq!(
            filter.whole(),
            r"(&(objectClass=nhsMhs)(nhsIDCode=\2a\29\28objectClass=\2a\00))"
        );
    }

    #[test]
    fn no_result_code_but_zero_is_an_answer() {
        assert_eq!(judge(0, ""), Ok(()));
        assert_eq!(judge(4, ""), Err(SourceFault::Truncated));
        for code in (1..120).filter(|code| *code != 0) {
            assert!(judge(code, "").is_err(), "{code}");
        }
    }
}
