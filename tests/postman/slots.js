const found = pm.response.json().entry.map((entry) => entry.resource);
const slots = found.filter((one) => one.resourceType === "Slot");
const slot = slots.sort((a, b) => new Date(a.start) - new Date(b.start))[0];
const schedule = found.find((one) => `${one.resourceType}/${one.id}` === slot.schedule.reference);
const location = schedule.actor.find((actor) => actor.reference.startsWith("Location/"));
const profile = "https://fhir.nhs.uk/STU3/StructureDefinition/";
const booking = {
    resourceType: "Appointment",
    meta: { profile: [profile + "GPConnect-Appointment-1"] },
    contained: [{
        resourceType: "Organization",
        id: "1",
        meta: { profile: [profile + "CareConnect-GPC-Organization-1"] },
        identifier: [{ system: "https://fhir.nhs.uk/Id/ods-organization-code", value: pm.variables.get("ods") }],
        name: "Invented hub",
        telecom: [{ system: "phone", value: "0300 000 0000" }],
    }],
    extension: [{
        url: profile + "Extension-GPConnect-BookingOrganisation-1",
        valueReference: { reference: "#1" },
    }],
    status: "booked",
    description: "Invented appointment",
    start: slot.start,
    end: slot.end,
    slot: [{ reference: `Slot/${slot.id}` }],
    created: new Date().toISOString().slice(0, 19) + "+00:00",
    participant: [
        { actor: { reference: `Patient/${pm.variables.get("patient")}` }, status: "accepted" },
        { actor: { reference: location.reference }, status: "accepted" },
    ],
};
pm.collectionVariables.set("booking", JSON.stringify(booking));
