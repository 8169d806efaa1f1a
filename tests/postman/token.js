const interaction = pm.request.headers.get("Ssp-InteractionID");
const now = Math.floor(Date.now() / 1000);
const claims = {
    iss: "https://booking.example.nhs.uk",
    sub: "1",
    aud: pm.variables.get("root"),
    iat: now,
    exp: now + 300,
    reason_for_request: "directcare",
    requested_scope: scopes[interaction],
    requesting_device: {
        resourceType: "Device",
        identifier: [{ system: "https://booking.example.nhs.uk/Id/device", value: "1" }],
        model: "Booking",
        version: "1",
    },
    requesting_organization: {
        resourceType: "Organization",
        identifier: [{ system: "https://fhir.nhs.uk/Id/ods-organization-code", value: pm.variables.get("ods") }],
        name: "Invented hub",
    },
    requesting_practitioner: {
        resourceType: "Practitioner",
        id: "1",
        identifier: [
            { system: "https://fhir.nhs.uk/Id/sds-user-id", value: "UNK" },
            { system: "https://fhir.nhs.uk/Id/sds-role-profile-id", value: "UNK" },
            { system: "https://booking.example.nhs.uk/Id/user", value: "1" },
        ],
        name: [{ family: "Invented", given: ["User"] }],
    },
};
const base64url = (text) => btoa(text).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
const parts = ['{"alg":"none","typ":"JWT"}', JSON.stringify(claims)];
pm.variables.set("token", parts.map((part) => base64url(part) + ".").join(""));
const day = (after) => new Date(Date.now() + after * 86400000).toISOString().slice(0, 10);
pm.variables.set("today", day(0));
pm.variables.set("first_day", day(1));
pm.variables.set("last_day", day(14));
