//! The SDS FHIR API's Bundles. There are as many rows as entries, or none; each identifier of a row is
//! valid text, and stands in the answer.
//!
//! The first byte chooses Endpoints or Devices.

use serde_json::Value;
use spine_proxy::fuzzing::{self, LdapRow};
use spine_types::interaction;
use spine_types::{Asid, CertificateName, CpaId, OdsCode, PartyKey};

pub(crate) fn check(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    let is_device = which & 1 == 1;
    let rows = if is_device { fuzzing::devices(body) } else { fuzzing::endpoints(body) };
    let Ok(rows) = rows else { return };
    for row in &rows {
        is_valid(row);
        assert_eq!(row.asid.is_some(), is_device);
    }
    // One that is nested too deeply in what nobody reads cannot be read here.
    let Ok(bundle) = serde_json::from_slice::<Value>(body) else { return };
    let entries = bundle["entry"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(rows.len(), entries.len());
    assert!(bundle["total"].is_null() || bundle["total"] == rows.len());
    for (row, entry) in rows.iter().zip(entries) {
        let said = |text: &str| {
            let mut values = entry["resource"]["identifier"].as_array().into_iter().flatten();
            values.any(|one| one["value"].as_str().is_some_and(|value| value.trim() == text))
        };
        assert!(said(row.party_key.as_str()));
        assert!(row.asid.as_ref().is_none_or(|asid| said(asid.as_str())));
        assert!(row.cpa_id.as_ref().is_none_or(|id| said(id.as_str())));
    }
}

fn is_valid(row: &LdapRow) {
    let LdapRow { asid, ods, party_key, cpa_id, fqdn, interactions } = row;
    assert!(asid.iter().all(|asid| asid.as_str().parse::<Asid>().is_ok()));
    assert!(ods.iter().all(|ods| ods.as_str().parse::<OdsCode>().is_ok()));
    assert!(party_key.as_str().parse::<PartyKey>().is_ok());
    assert!(cpa_id.iter().all(|id| id.as_str().parse::<CpaId>().is_ok()));
    assert!(fqdn.iter().all(|name| name.as_str().parse::<CertificateName>().is_ok()));
    assert!(interactions.iter().all(|known| interaction::by_id(known.id) == Some(known)));
}
