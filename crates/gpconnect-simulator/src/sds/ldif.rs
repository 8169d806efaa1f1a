//! Export of the records as LDIF, for an LDAP server to load.

use std::fmt::Write as _;

use base64_simd::STANDARD;

use super::records::{Accredited, MessageHandler, Records};

/// Entries above all records.
const TOP: &str = "\
dn: o=nhs
objectClass: organization
o: nhs

dn: ou=Services,o=nhs
objectClass: organizationalUnit
ou: Services
";

impl Records {
    /// Returns the records as LDIF, with the two entries above them.
    ///
    /// Empty values are left out, because LDAP has none. A server that checks its schema refuses a
    /// record without a mandatory attribute, such as a message handler without an address.
    #[must_use]
    pub fn to_ldif(&self) -> String {
        let mut out = TOP.to_owned();
        self.accredited.iter().for_each(|record| record.write(&mut out));
        self.handlers.iter().for_each(|record| record.write(&mut out));
        out
    }
}

impl Accredited {
    fn write(&self, out: &mut String) {
        begin(out, &self.asid, "nhsAs");
        line(out, "nhsIDCode", &self.ods);
        lines(out, "nhsAsClient", &self.clients);
        line(out, "nhsMHSPartyKey", &self.party_key);
        lines(out, "nhsMhsManufacturerOrg", &self.manufacturer);
        lines(out, "nhsAsSvcIA", &self.interactions);
    }
}

impl MessageHandler {
    fn write(&self, out: &mut String) {
        begin(out, &self.id, "nhsMhs");
        lines(out, "nhsMhsCPAId", &self.cpa_id);
        line(out, "nhsIDCode", &self.ods);
        line(out, "nhsMHSPartyKey", &self.party_key);
        line(out, "nhsMhsSvcIA", &self.interaction);
        lines(out, "nhsMhsFQDN", &self.fqdn);
        lines(out, "nhsMHSEndPoint", &self.addresses);
    }
}

fn begin(out: &mut String, id: &str, class: &str) {
    out.push('\n');
    line(out, "dn", &format!("uniqueIdentifier={},ou=Services,o=nhs", escaped(id)));
    line(out, "objectClass", "top");
    line(out, "objectClass", class);
    line(out, "uniqueIdentifier", id);
}

fn lines<'a>(out: &mut String, name: &str, values: impl IntoIterator<Item = &'a String>) {
    values.into_iter().for_each(|value| line(out, name, value));
}

fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _written = if value.is_empty() {
        Ok(())
    } else if is_safe(value) {
        writeln!(out, "{name}: {value}")
    } else {
        writeln!(out, "{name}:: {}", STANDARD.encode_to_string(value))
    };
}

/// Spec: RFC 2849, `SAFE-STRING`, without a space at the end.
fn is_safe(value: &str) -> bool {
    !value.starts_with([' ', ':', '<'])
        && !value.ends_with(' ')
        && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Spec: RFC 4514, 2.4, with an escape wherever one is allowed.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\0' => out.push_str("\\00"),
            ' ' | '"' | '#' | '+' | ',' | ';' | '<' | '=' | '>' | '\\' => {
                out.extend(['\\', character]);
            }
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_with_the_attributes_of_the_directory() {
        let interactions = ["urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1"];
        let root = "https://gp.example.test/Z99001/STU3/1/gpconnect";
        let mut records =
            Records::practice("Z99001", "000000099001", "Z99001-990001", root, &interactions);
        records.accredited[0].manufacturer = Some("ZZ901".to_owned());
        records.handlers[0].addresses.push("https://two.example.test/".to_owned());
        let expected = "\
dn: o=nhs
objectClass: organization
o: nhs

dn: ou=Services,o=nhs
objectClass: organizationalUnit
ou: Services

dn: uniqueIdentifier=000000099001,ou=Services,o=nhs
objectClass: top
objectClass: nhsAs
uniqueIdentifier: 000000099001
nhsIDCode: Z99001
nhsAsClient: Z99001
nhsMHSPartyKey: Z99001-990001
nhsMhsManufacturerOrg: ZZ901
nhsAsSvcIA: urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1

dn: uniqueIdentifier=S000000099001A000001,ou=Services,o=nhs
objectClass: top
objectClass: nhsMhs
uniqueIdentifier: S000000099001A000001
nhsMhsCPAId: S000000099001A000001
nhsIDCode: Z99001
nhsMHSPartyKey: Z99001-990001
nhsMhsSvcIA: urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1
nhsMhsFQDN: gp.example.test
nhsMHSEndPoint: https://gp.example.test/Z99001/STU3/1/gpconnect
nhsMHSEndPoint: https://two.example.test/
";
        assert_eq!(records.to_ldif(), expected);
    }

    #[test]
    fn unsafe_values_are_encoded() {
        for (value, expected) in [
            ("plain text", "a: plain text\n"),
            ("", ""),
            (" before", "a:: IGJlZm9yZQ==\n"),
            ("after ", "a:: YWZ0ZXIg\n"),
            (":colon", "a:: OmNvbG9u\n"),
            ("<less", "a:: PGxlc3M=\n"),
            ("two\nlines", "a:: dHdvCmxpbmVz\n"),
            ("caf\u{e9}", "a:: Y2Fmw6k=\n"),
        ] {
            let mut out = String::new();
            line(&mut out, "a", value);
            assert_eq!(out, expected, "{value:?}");
        }
        assert_eq!(escaped("a,b =\"\\\0c"), "a\\,b\\ \\=\\\"\\\\\\00c");
    }
}
