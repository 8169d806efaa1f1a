//! Records of the directory, and the search in them.

use http::Uri;

use super::search::{Clause, SdsSearch};

/// Records of a directory, as plain text so that malformed data can be stored too.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// The accredited systems.
    pub accredited: Vec<Accredited>,
    /// The message handling systems.
    pub handlers: Vec<MessageHandler>,
}

/// An nhsAs record: one system at one organisation.
#[derive(Debug, Clone, Default)]
pub struct Accredited {
    /// `uniqueIdentifier`: the ASID.
    pub asid: String,
    /// `nhsIDCode`: the organisation that owns the record.
    pub ods: String,
    /// `nhsAsClient`: the organisations that use the system. SDS fails on more than one.
    pub clients: Vec<String>,
    /// `nhsMHSPartyKey`: party key that joins it to its message handlers.
    pub party_key: String,
    /// `nhsMhsManufacturerOrg`: ODS code of the supplier.
    pub manufacturer: Option<String>,
    /// `nhsAsSvcIA`: every interaction the system may use.
    pub interactions: Vec<String>,
}

/// An nhsMhs record: one interaction of one party key.
#[derive(Debug, Clone, Default)]
pub struct MessageHandler {
    /// `uniqueIdentifier` of the record; not an ASID.
    pub id: String,
    /// `nhsIDCode`: the organisation that owns the record.
    pub ods: String,
    /// `nhsMHSPartyKey`: party key that joins it to its accredited system.
    pub party_key: String,
    /// `nhsMhsSvcIA`: the interaction.
    pub interaction: String,
    /// `nhsMHSEndPoint`: URLs at which it is served; may be empty.
    pub addresses: Vec<String>,
    /// `nhsMhsFQDN`: host name of the system.
    pub fqdn: Option<String>,
    /// `nhsMhsCPAId`: id of the contract.
    pub cpa_id: Option<String>,
}

/// Interaction of a consumer's message handler, which is not one of GP Connect's.
const CONSUMER_INTERACTION: &str = "urn:nhs:names:services:pdsquery:QUPA_IN000008UK02";

impl Records {
    /// Returns the records of a practice whose system serves these interactions at one service root.
    #[must_use]
    pub fn practice(
        ods: &str,
        asid: &str,
        party_key: &str,
        root: &str,
        interactions: &[&str],
    ) -> Self {
        let fqdn = root.parse().ok().and_then(|uri: Uri| uri.host().map(ToOwned::to_owned));
        let numbered = interactions.iter().zip(1..);
        let handlers = numbered.map(|(interaction, number)| MessageHandler {
            ods: ods.to_owned(),
            party_key: party_key.to_owned(),
            interaction: (*interaction).to_owned(),
            addresses: vec![root.to_owned()],
            fqdn: fqdn.clone(),
            ..MessageHandler::numbered(asid, number)
        });
        Self {
            handlers: handlers.collect(),
            accredited: vec![Accredited::new(ods, asid, party_key, interactions)],
        }
    }

    /// Returns the records of a consumer's system: its interactions, and one message handler that
    /// carries its host name and is for another interaction.
    #[must_use]
    pub fn consumer(
        ods: &str,
        asid: &str,
        party_key: &str,
        fqdn: &str,
        interactions: &[&str],
    ) -> Self {
        let handler = MessageHandler {
            ods: ods.to_owned(),
            party_key: party_key.to_owned(),
            interaction: CONSUMER_INTERACTION.to_owned(),
            addresses: vec![format!("https://{fqdn}/")],
            fqdn: Some(fqdn.to_owned()),
            ..MessageHandler::numbered(asid, 1)
        };
        Self {
            handlers: vec![handler],
            accredited: vec![Accredited::new(ods, asid, party_key, interactions)],
        }
    }

    /// Returns these records and the others together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.accredited.extend(other.accredited);
        self.handlers.extend(other.handlers);
        self
    }

    /// Returns the accredited systems that match a request.
    pub(super) fn systems<'a>(
        &'a self,
        search: &'a SdsSearch,
    ) -> impl Iterator<Item = &'a Accredited> {
        self.accredited.iter().filter(|system| {
            search.organisation.matches([&system.ods])
                && search.interaction.matches(&system.interactions)
                && search.party_key.matches([&system.party_key])
                && search.manufacturer.matches(system.manufacturer.as_ref())
        })
    }

    /// Returns the message handlers that match a request.
    pub(super) fn handlers<'a>(
        &'a self,
        search: &'a SdsSearch,
    ) -> impl Iterator<Item = &'a MessageHandler> {
        self.handlers.iter().filter(|handler| {
            search.organisation.matches([&handler.ods])
                && search.interaction.matches([&handler.interaction])
                && search.party_key.matches([&handler.party_key])
        })
    }
}

impl Accredited {
    fn new(ods: &str, asid: &str, party_key: &str, interactions: &[&str]) -> Self {
        Self {
            asid: asid.to_owned(),
            ods: ods.to_owned(),
            clients: vec![ods.to_owned()],
            party_key: party_key.to_owned(),
            manufacturer: None,
            interactions: interactions.iter().map(|id| (*id).to_owned()).collect(),
        }
    }
}

impl MessageHandler {
    /// Returns a record with an id, also used as the contract id, that is derived from the ASID.
    fn numbered(asid: &str, number: usize) -> Self {
        let id = format!("S{asid}A{number:06}");
        Self { cpa_id: Some(id.clone()), id, ..Self::default() }
    }
}

impl Clause {
    /// Returns true if a record with these values matches.
    ///
    /// SDS puts the value into an LDAP filter unescaped, so `*` matches every record that has the
    /// attribute.
    fn matches<'a>(&self, values: impl IntoIterator<Item = &'a String>) -> bool {
        let Some(wanted) = self.value() else { return true };
        values.into_iter().filter(|value| !value.is_empty()).any(|value| match self {
            _ if wanted == "*" => true,
            Self::Exact(_) => value == wanted,
            Self::AnyCase(_) => value.eq_ignore_ascii_case(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_practice_has_one_handler_for_each_interaction() {
        let records = Records::practice(
            "Z99001",
            "200000099001",
            "Z99001-990001",
            "https://gp.example.test:8443/Z99001/STU3/1/gpconnect",
            &["urn:a:b", "urn:a:c"],
        )
        .and(Records::consumer(
            "Z99009",
            "200000099009",
            "Z99009-1",
            "portal.example.test",
            &[],
        ));
        let handlers: Vec<_> = records
            .handlers
            .iter()
            .map(|handler| (handler.id.as_str(), handler.interaction.as_str()))
            .collect();
        let expected = [
            ("S200000099001A000001", "urn:a:b"),
            ("S200000099001A000002", "urn:a:c"),
            ("S200000099009A000001", CONSUMER_INTERACTION),
        ];
        assert_eq!(handlers, expected);
        assert_eq!(records.handlers[0].fqdn.as_deref(), Some("gp.example.test"));
        assert_eq!(records.handlers[2].fqdn.as_deref(), Some("portal.example.test"));
        assert_eq!(records.accredited[0].interactions, ["urn:a:b", "urn:a:c"]);
        assert_eq!(records.accredited[1].clients, ["Z99009"]);
    }
}
