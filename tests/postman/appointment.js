const appointment = pm.response.json();
pm.collectionVariables.set("appointment", appointment.id);
pm.collectionVariables.set("version", pm.response.headers.get("ETag"));
const amended = Object.assign({}, appointment, { description: "Another description" });
pm.collectionVariables.set("amended", JSON.stringify(amended));
const reason = {
    url: "https://fhir.nhs.uk/STU3/StructureDefinition/Extension-GPConnect-AppointmentCancellationReason-1",
    valueString: "Invented reason",
};
const extension = (appointment.extension || []).concat([reason]);
const cancelled = Object.assign({}, appointment, { status: "cancelled", extension });
pm.collectionVariables.set("cancelled", JSON.stringify(cancelled));
