//! Responses of the SDS FHIR API: a Bundle of Endpoints or Devices, strict in the fields that are used.

use serde::Deserialize;

use super::super::query::{AccreditedSystem, Handler, SourceFault};
use super::malformed;
use spine_types::OdsCode;
use spine_types::interaction;

/// Parses a response of `/Endpoint` into message handlers.
pub(crate) fn handlers(body: &[u8]) -> Result<Vec<Handler>, SourceFault> {
    read::<Endpoint>(body)?.into_iter().map(Endpoint::handler).collect()
}

/// Parses a response of `/Device` into accredited systems.
pub(crate) fn systems(body: &[u8]) -> Result<Vec<AccreditedSystem>, SourceFault> {
    read::<Device>(body)?.into_iter().map(Device::system).collect()
}

/// Parses a Bundle; fails if a resource is of another kind or their number differs from `total`.
fn read<R: BundleResource>(body: &[u8]) -> Result<Vec<R>, SourceFault> {
    let bundle: Bundle<R> =
        serde_json::from_slice(body).map_err(|why| malformed(why.to_string()))?;
    if bundle.resource_type != "Bundle" {
        return Err(malformed(format!(
            "resourceType is {:?} instead of Bundle",
            bundle.resource_type
        )));
    }
    let entries = bundle.entry.unwrap_or_default();
    if bundle.total.is_some_and(|total| usize::try_from(total) != Ok(entries.len())) {
        return Err(SourceFault::Truncated);
    }
    let resources = entries.into_iter().map(|entry| entry.resource);
    resources
        .map(|resource| match resource.kind() == R::KIND {
            true => Ok(resource),
            false => Err(malformed(format!(
                "a resource of type {:?} among {}s",
                resource.kind(),
                R::KIND
            ))),
        })
        .collect()
}

/// Resource type of a Bundle's entries.
trait BundleResource: for<'de> Deserialize<'de> {
    const KIND: &str;

    fn kind(&self) -> &str;
}

/// Bundle of search results. Spec: an empty result has `entry: []`; a missing `entry` is accepted too.
#[derive(Deserialize)]
#[serde(bound = "R: BundleResource")]
struct Bundle<R> {
    #[serde(rename = "resourceType")]
    resource_type: String,
    total: Option<u64>,
    entry: Option<Vec<BundleEntry<R>>>,
}

#[derive(Deserialize)]
#[serde(bound = "R: BundleResource")]
struct BundleEntry<R> {
    resource: R,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "resourceType")]
    resource_type: String,
    address: Option<String>,
    #[serde(rename = "managingOrganization")]
    managing_organization: Option<Reference>,
    #[serde(default)]
    identifier: Vec<FhirIdentifier>,
    #[serde(default)]
    extension: Vec<Extension>,
}

#[derive(Deserialize)]
struct Device {
    #[serde(rename = "resourceType")]
    resource_type: String,
    #[serde(default)]
    identifier: Vec<FhirIdentifier>,
    #[serde(default)]
    extension: Vec<Extension>,
}

#[derive(Deserialize)]
struct Reference {
    identifier: Option<FhirIdentifier>,
}

#[derive(Deserialize)]
struct FhirIdentifier {
    system: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
struct Extension {
    url: String,
    #[serde(rename = "valueReference")]
    reference: Option<Reference>,
}

impl BundleResource for Endpoint {
    const KIND: &str = "Endpoint";

    fn kind(&self) -> &str {
        &self.resource_type
    }
}

impl BundleResource for Device {
    const KIND: &str = "Device";

    fn kind(&self) -> &str {
        &self.resource_type
    }
}

impl Endpoint {
    fn handler(self) -> Result<Handler, SourceFault> {
        let ods = self.managing_organization.and_then(|organisation| organisation.identifier);
        let ods = ods.and_then(|identifier| identifier.value);
        Ok(Handler {
            ods: ods.map(|ods| parsed(OdsCode::from_any_case(ods.trim()))).transpose()?,
            party_key: required(&self.identifier, "nhsMhsPartyKey")?,
            interaction: interactions(&self.extension).next(),
            address: self.address,
            // Informative only: an unreadable value counts as missing.
            cpa_id: identifier(&self.identifier, "nhsMhsCPAId").and_then(|id| id.parse().ok()),
            fqdn: identifier(&self.identifier, "nhsMhsFQDN")
                .and_then(|name| name.to_ascii_lowercase().parse().ok()),
        })
    }
}

impl Device {
    fn system(self) -> Result<AccreditedSystem, SourceFault> {
        Ok(AccreditedSystem {
            asid: required(&self.identifier, "nhsSpineASID")?,
            // Spec: `owner` is the client, not the organisation of the record.
            ods: None,
            party_key: required(&self.identifier, "nhsMhsPartyKey")?,
            interactions: interactions(&self.extension).collect(),
        })
    }
}

/// Returns the interactions of the catalogue that the extensions name; skips others.
fn interactions(
    extensions: &[Extension],
) -> impl Iterator<Item = &'static interaction::Interaction> {
    let of = |extension: &Extension| {
        let name = "Extension-SDS-NhsServiceInteractionId";
        let reference = extension.reference.as_ref();
        let reference = reference.filter(|_| ends_in(&extension.url, name))?;
        interaction::by_id(reference.identifier.as_ref()?.value.as_deref()?)
    };
    extensions.iter().filter_map(of)
}

/// Returns the identifier whose system ends in `name`. Spec: systems are spelled in more than one case.
fn identifier<'a>(identifiers: &'a [FhirIdentifier], name: &str) -> Option<&'a str> {
    let named = |identifier: &&FhirIdentifier| {
        identifier.system.as_deref().is_some_and(|system| ends_in(system, name))
    };
    identifiers.iter().find(named)?.value.as_deref().map(str::trim)
}

fn ends_in(system: &str, name: &str) -> bool {
    system.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case(name))
}

fn required<T: std::str::FromStr<Err: std::fmt::Display>>(
    identifiers: &[FhirIdentifier],
    name: &str,
) -> Result<T, SourceFault> {
    let found = identifier(identifiers, name)
        .ok_or_else(|| malformed(format!("a record has no {name}")))?;
    parsed(found.parse())
}

fn parsed<T>(value: Result<T, impl std::fmt::Display>) -> Result<T, SourceFault> {
    value.map_err(|why| malformed(why.to_string()))
}
