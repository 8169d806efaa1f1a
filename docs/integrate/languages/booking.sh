#!/usr/bin/env bash
# Books the earliest free slot for an invented patient, reads the appointment and cancels it.
#
# bash booking.sh lab.json, with the line that `spine-proxy lab` prints in lab.json. Needs curl 7.76 or later, and jq.
set -euo pipefail

lab() { jq --raw-output "$1" "$lab"; }
lab=$1
proxy=$(lab .proxy.url) authority=$(lab .authority)
asid=$(lab '.consumers[0].asid') ods=$(lab '.consumers[0].ods')
certificate=$(lab '.consumers[0].certificate') key=$(lab '.consumers[0].key')
practice=$(lab '.practices[0].asid') root=$(lab '.practices[0].root')
nhs_number=$(lab 'first(.patients[] | select(.registration == "registered")).nhs_number')
ODS=https://fhir.nhs.uk/Id/ods-organization-code
PROFILE=https://fhir.nhs.uk/STU3/StructureDefinition/
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

base64url() { base64 | tr '+/' '-_' | tr -d '=\n'; }

token() {
    local claims
    claims=$(jq --null-input --compact-output --arg aud "$root" --arg scope "$1" --arg system "$ODS" --arg ods "$ods" '
        (now | floor) as $now | {
            iss: "https://booking.example.nhs.uk", sub: "1", aud: $aud, iat: $now, exp: ($now + 300),
            reason_for_request: "directcare", requested_scope: $scope,
            requesting_device: {
                resourceType: "Device", model: "Booking", version: "1",
                identifier: [{system: "https://booking.example.nhs.uk/Id/device", value: "1"}]
            },
            requesting_organization: {
                resourceType: "Organization", identifier: [{system: $system, value: $ods}], name: "Invented hub"
            },
            requesting_practitioner: {
                resourceType: "Practitioner", id: "1", name: [{family: "Invented", given: ["User"]}],
                identifier: [
                    {system: "https://fhir.nhs.uk/Id/sds-user-id", value: "UNK"},
                    {system: "https://fhir.nhs.uk/Id/sds-role-profile-id", value: "UNK"},
                    {system: "https://booking.example.nhs.uk/Id/user", value: "1"}
                ]
            }
        }')
    printf '%s.%s.' "$(printf '{"alg":"none","typ":"JWT"}' | base64url)" "$(printf %s "$claims" | base64url)"
}

# The body of the answer is in $folder/answer, its head in $folder/head.
send() {
    local method=$1 path=$2 interaction=$3 scope=$4
    shift 4
    # The target is one slash, the service root with its https://, and the path: --path-as-is sends it as it is.
    curl --path-as-is --globoff --silent --show-error --fail-with-body --max-time 45 \
        --cacert "$authority" --cert "$certificate" --key "$key" \
        --request "$method" "$proxy/$root$path" "$@" \
        --header "Ssp-TraceID: $(tr -d '\n' </proc/sys/kernel/random/uuid)" \
        --header "Ssp-From: $asid" \
        --header "Ssp-To: $practice" \
        --header "Ssp-InteractionID: urn:nhs:names:services:gpconnect:fhir:rest:$interaction" \
        --header "Authorization: Bearer $(token "$scope")" \
        --header "Accept: application/fhir+json" \
        --header "Content-Type: application/fhir+json" \
        --dump-header "$folder/head" --output "$folder/answer" --write-out "$method ${path%%\?*} %{http_code}\n" ||
        { cat "$folder/answer" >&2; exit 1; }
}

send GET "/Patient?identifier=https://fhir.nhs.uk/Id/nhs-number%7C$nhs_number" search:patient-1 'patient/*.read'
patient=$(jq --raw-output '.entry[0].resource.id' "$folder/answer")

# From tomorrow on, for at most fourteen days.
days="start=ge$(date --date '1 day' +%F)&end=le$(date --date '14 days' +%F)"
filter="searchFilter=$ODS%7C$ods"
send GET "/Slot?status=free&$days&_include=Slot:schedule&$filter" search:slot-1 'organization/*.read'
mv "$folder/answer" "$folder/slots"

jq --arg patient "$patient" --arg system "$ODS" --arg ods "$ods" --arg profile "$PROFILE" '
    [.entry[].resource] as $found
    | ([$found[] | select(.resourceType == "Slot")] | min_by(.start)) as $slot
    | first($found[] | select("\(.resourceType)/\(.id)" == $slot.schedule.reference)) as $schedule
    | first($schedule.actor[].reference | select(startswith("Location/"))) as $location
    | {
        resourceType: "Appointment",
        meta: {profile: [$profile + "GPConnect-Appointment-1"]},
        contained: [{
            resourceType: "Organization", id: "1", name: "Invented hub",
            meta: {profile: [$profile + "CareConnect-GPC-Organization-1"]},
            identifier: [{system: $system, value: $ods}],
            telecom: [{system: "phone", value: "0300 000 0000"}]
        }],
        extension: [{
            url: ($profile + "Extension-GPConnect-BookingOrganisation-1"), valueReference: {reference: "#1"}
        }],
        status: "booked",
        description: "Invented appointment",
        start: $slot.start,
        end: $slot.end,
        slot: [{reference: "Slot/\($slot.id)"}],
        created: (now | strftime("%Y-%m-%dT%H:%M:%S+00:00")),
        participant: [
            {actor: {reference: "Patient/\($patient)"}, status: "accepted"},
            {actor: {reference: $location}, status: "accepted"}
        ]
    }' "$folder/slots" >"$folder/booking"
send POST /Appointment create:appointment-1 'patient/*.write' --data-binary "@$folder/booking"
id=$(jq --raw-output .id "$folder/answer")

send GET "/Appointment/$id" read:appointment-1 'patient/*.read'
version=$(sed -n 's/^etag: *//Ip' "$folder/head" | tr -d '\r')
jq --arg reason "${PROFILE}Extension-GPConnect-AppointmentCancellationReason-1" '
    .status = "cancelled" | .extension += [{url: $reason, valueString: "Invented reason"}]
    ' "$folder/answer" >"$folder/cancelled"
send PUT "/Appointment/$id" cancel:appointment-1 'patient/*.write' \
    --data-binary "@$folder/cancelled" --header "If-Match: $version"
jq --raw-output '"appointment \(.id) \(.status)"' "$folder/answer"
