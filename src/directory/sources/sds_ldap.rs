//! Client of SDS over LDAP: LDAPS with mutual TLS, one search per query, typed records.
//!
//! Spec: the server spells attribute names in its own way, whatever spelling was asked for.

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

use super::super::settings::SourceDeadlines;
use super::query::{
    AccreditedSystem, Handler, HandlersOf, QueryOptions, SourceFault, SystemsOf, watch_over,
};
use crate::tls::ServiceLeg;
use spine_types::interaction;

mod relay;

/// Settings of SDS over LDAP.
#[derive(Debug, Clone, Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LdapSettings {
    /// URL of the server, for example `ldaps://ldap.national.ncrs.nhs.uk:636`. Its certificate must have
    /// this host name.
    pub url: String,
    /// `host:port` to connect to instead of the URL's own.
    pub dial: Option<String>,
    /// Base DN of all searches.
    #[serde(default = "base")]
    pub base: String,
    /// TLS towards the server, with our certificate.
    pub tls: ServiceLeg,
}

fn base() -> String {
    "ou=services,o=nhs".to_owned()
}

/// Client of SDS over LDAP, with one connection for all searches.
pub(super) struct SdsLdap {
    url: String,
    address: String,
    /// Host of the URL, which the server's certificate must name.
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
    /// Returns a client without a connection.
    ///
    /// # Errors
    /// Returns a text if the URL cannot be used.
    pub(super) fn new(
        settings: &LdapSettings,
        tls: Arc<ClientConfig>,
        deadlines: &SourceDeadlines,
    ) -> Result<Self, String> {
        let authority =
            settings.url.strip_prefix("ldaps://").map(|rest| rest.trim_end_matches('/'));
        let authority =
            authority.filter(|rest| !rest.is_empty() && !rest.contains(['/', '?', '@']));
        let authority = authority
            .ok_or_else(|| format!("{:?} is not of the form ldaps://host:port", settings.url))?;
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
            connect: deadlines.connect,
            attempt: deadlines.attempt,
            kept: Mutex::new(None),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn handlers(
        &self,
        asked: &HandlersOf<'_>,
        options: QueryOptions,
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
        let rows = self.search(&filter.whole(), &HANDLER, options).await?;
        Ok(rows.iter().map(LdapRecord::handlers).collect::<Result<Vec<_>, _>>()?.concat())
    }

    pub(super) async fn systems(
        &self,
        asked: &SystemsOf<'_>,
        options: QueryOptions,
    ) -> Result<Vec<AccreditedSystem>, SourceFault> {
        let mut filter = LdapFilter::new("nhsAs");
        match asked {
            SystemsOf::Asid(asid) => filter.and("uniqueIdentifier", asid.as_str()),
            SystemsOf::Practice { ods, party_key, .. } => {
                filter.and("nhsIDCode", ods.as_str());
                filter.and("nhsMHSPartyKey", party_key.as_str());
            }
        }
        self.search(&filter.whole(), &SYSTEM, options)
            .await?
            .iter()
            .map(LdapRecord::system)
            .collect()
    }

    async fn search(
        &self,
        filter: &str,
        attributes: &[&'static str],
        options: QueryOptions,
    ) -> Result<Vec<LdapRecord>, SourceFault> {
        let (deadline, slow) = options.limit(self.attempt);
        let search = async {
            let (ldap, kept) = self.connection().await?;
            match self.ask(ldap, filter, attributes).await {
                // A kept connection that the server has closed meanwhile is no failure of the server.
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
            // After any fault the next query opens a new connection. If the lock is taken, its holder is
            // opening one.
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
        check_code(result.rc, &result.text)?;
        // Referrals name records on other servers, so this answer is incomplete.
        if !result.refs.is_empty() {
            return Err(SourceFault::Truncated);
        }
        Ok(entries
            .into_iter()
            .map(|entry| LdapRecord::new(SearchEntry::construct(entry)))
            .collect())
    }

    /// Returns the kept connection or a new one, and true if it was kept.
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

    /// Opens a connection. Spec: LDAPS from the first byte, mutual TLS, then an anonymous bind.
    async fn open(&self) -> Result<Ldap, SourceFault> {
        let connect = tokio::time::timeout(self.connect, TcpStream::connect(&self.address));
        let stream = connect.await.map_err(|_| SourceFault::TimedOut)?;
        let stream = stream.map_err(|why| unavailable(&why))?;
        watch_over(&stream, self.attempt);
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(self.host.clone(), stream).await;
        // Security: the library does not limit messages; the relay does.
        let stream = stream.and_then(relay::between).map_err(|why| unavailable(&why))?;
        let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(stream));
        let opened = LdapConnAsync::with_settings(settings, "ldapi:///").await;
        let (connection, mut ldap) = opened.map_err(|why| unavailable(&why))?;
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "the LDAP library ended its session with SDS with an error; the next search opens another");
            }
        });
        let bound = ldap.simple_bind("", "").await.map_err(|why| unavailable(&why))?;
        check_code(bound.rc, &bound.text)?;
        Ok(ldap)
    }
}

impl std::fmt::Debug for SdsLdap {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SdsLdap").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Translates an LDAP result code (RFC 4511 appendix A) into a fault.
///
/// A search that ran into a limit counts as incomplete. A missing base object is a mistake in our
/// settings, not an absence.
fn check_code(code: u32, text: &str) -> Result<(), SourceFault> {
    let described = || format!("result code {code} {text}").trim_end().to_owned();
    match code {
        0 => Ok(()),
        3 => Err(SourceFault::TimedOut),
        4 | 11 => Err(SourceFault::Truncated),
        48..=50 => Err(SourceFault::Denied(described())),
        32 | 34 => Err(SourceFault::OurFault(described())),
        _ => Err(SourceFault::Unavailable(described())),
    }
}

fn unavailable(why: &dyn std::fmt::Display) -> SourceFault {
    SourceFault::Unavailable(why.to_string())
}

/// Builder of a search filter. Security: every value is escaped, typed or not.
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

/// One record, with attribute names in lower case.
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

    /// Returns the only value of an attribute; fails if there are several.
    ///
    /// Security: the identity of a record must not depend on the order of values.
    fn only(&self, attribute: &str) -> Result<Option<&str>, SourceFault> {
        match self.all(attribute).len() {
            0 | 1 => Ok(self.one(attribute)),
            _ => Err(SourceFault::Malformed(format!("a record has several values of {attribute}"))),
        }
    }

    fn required<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        attribute: &str,
    ) -> Result<T, SourceFault> {
        let value = self.only(attribute)?;
        let value =
            value.ok_or_else(|| SourceFault::Malformed(format!("a record has no {attribute}")))?;
        value.parse().map_err(|why: T::Err| SourceFault::Malformed(format!("{attribute}: {why}")))
    }

    /// Returns one handler for each address, as the FHIR API does: two addresses are an ambiguity.
    fn handlers(&self) -> Result<Vec<Handler>, SourceFault> {
        let handler = Handler {
            ods: Some(self.ods()?),
            party_key: self.required("nhsMHSPartyKey")?,
            interaction: self.one("nhsMhsSvcIA").and_then(interaction::by_id),
            address: None,
            // Informative only: an unreadable value counts as missing.
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

    fn ods(&self) -> Result<spine_types::OdsCode, SourceFault> {
        let text = self.only("nhsIDCode")?.unwrap_or_default();
        spine_types::OdsCode::from_any_case(text)
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
        assert_eq!(check_code(0, ""), Ok(()));
        assert_eq!(check_code(4, ""), Err(SourceFault::Truncated));
        for code in (1..120).filter(|code| *code != 0) {
            assert!(check_code(code, "").is_err(), "{code}");
        }
    }
}
