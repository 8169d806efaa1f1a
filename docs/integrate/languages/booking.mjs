// Books the earliest free slot for an invented patient, reads the appointment and cancels it.
//
// node booking.mjs lab.json, with the line that `spine-proxy lab` prints in lab.json. Needs Node 18 or later.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";

const lab = JSON.parse(readFileSync(process.argv[2], "utf8"));
const [consumer, practice] = [lab.consumers[0], lab.practices[0]];
const patient = lab.patients.find((one) => one.registration === "registered");
const ODS = "https://fhir.nhs.uk/Id/ods-organization-code";
const PROFILE = "https://fhir.nhs.uk/STU3/StructureDefinition/";

const agent = new Agent({
  ca: readFileSync(lab.authority),
  cert: readFileSync(consumer.certificate),
  key: readFileSync(consumer.key),
});

function token(scope) {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    iss: "https://booking.example.nhs.uk",
    sub: "1",
    aud: practice.root,
    iat: now,
    exp: now + 300,
    reason_for_request: "directcare",
    requested_scope: scope,
    requesting_device: {
      resourceType: "Device",
      identifier: [{ system: "https://booking.example.nhs.uk/Id/device", value: "1" }],
      model: "Booking",
      version: "1",
    },
    requesting_organization: {
      resourceType: "Organization",
      identifier: [{ system: ODS, value: consumer.ods }],
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
  const parts = ['{"alg":"none","typ":"JWT"}', JSON.stringify(claims)];
  return parts.map((part) => Buffer.from(part).toString("base64url") + ".").join("");
}

function send(method, path, interaction, scope, body, headers = {}) {
  const { hostname, port } = new URL(lab.proxy.url);
  return new Promise((resolve, reject) => {
    const options = {
      agent, hostname, port, method, timeout: 45_000,
      // The target is one slash, the service root with its https://, and the path: node:https sends it as it is.
      path: `/${practice.root}${path}`,
      headers: {
        "Ssp-TraceID": randomUUID(),
        "Ssp-From": consumer.asid,
        "Ssp-To": practice.asid,
        "Ssp-InteractionID": `urn:nhs:names:services:gpconnect:fhir:rest:${interaction}`,
        Authorization: `Bearer ${token(scope)}`,
        Accept: "application/fhir+json",
        "Content-Type": "application/fhir+json",
        ...headers,
      },
    };
    const sent = request(options, async (answer) => {
      let text = "";
      try {
        for await (const piece of answer.setEncoding("utf8")) text += piece;
      } catch (error) {
        return reject(error);
      }
      console.log(method, path.split("?")[0], answer.statusCode);
      if (answer.statusCode >= 300) return reject(new Error(text));
      resolve([JSON.parse(text), answer.headers.etag]);
    });
    sent.on("timeout", () => sent.destroy(new Error("no answer in time")));
    sent.on("error", reject);
    sent.end(body && JSON.stringify(body));
  });
}

const resources = (bundle, kind) =>
  bundle.entry.map((entry) => entry.resource).filter((one) => one.resourceType === kind);

const number = `https://fhir.nhs.uk/Id/nhs-number%7C${patient.nhs_number}`;
let [found] = await send("GET", `/Patient?identifier=${number}`, "search:patient-1", "patient/*.read");
const patientId = resources(found, "Patient")[0].id;

// From tomorrow on, for at most fourteen days.
const day = (after) => new Date(Date.now() + after * 86_400_000).toISOString().slice(0, 10);
const query = `status=free&start=ge${day(1)}&end=le${day(14)}&_include=Slot:schedule`;
const filter = `searchFilter=${ODS}%7C${consumer.ods}`;
[found] = await send("GET", `/Slot?${query}&${filter}`, "search:slot-1", "organization/*.read");
const [slot] = resources(found, "Slot").sort((a, b) => new Date(a.start) - new Date(b.start));
const schedule = resources(found, "Schedule").find((one) => slot.schedule.reference === `Schedule/${one.id}`);
const location = schedule.actor.find((actor) => actor.reference.startsWith("Location/"));

const [booked] = await send("POST", "/Appointment", "create:appointment-1", "patient/*.write", {
  resourceType: "Appointment",
  meta: { profile: [PROFILE + "GPConnect-Appointment-1"] },
  contained: [{
    resourceType: "Organization",
    id: "1",
    meta: { profile: [PROFILE + "CareConnect-GPC-Organization-1"] },
    identifier: [{ system: ODS, value: consumer.ods }],
    name: "Invented hub",
    telecom: [{ system: "phone", value: "0300 000 0000" }],
  }],
  extension: [{
    url: PROFILE + "Extension-GPConnect-BookingOrganisation-1",
    valueReference: { reference: "#1" },
  }],
  status: "booked",
  description: "Invented appointment",
  start: slot.start,
  end: slot.end,
  slot: [{ reference: `Slot/${slot.id}` }],
  created: new Date().toISOString().slice(0, 19) + "+00:00",
  participant: [
    { actor: { reference: `Patient/${patientId}` }, status: "accepted" },
    { actor: { reference: location.reference }, status: "accepted" },
  ],
});

const path = `/Appointment/${booked.id}`;
const [appointment, version] = await send("GET", path, "read:appointment-1", "patient/*.read");
appointment.status = "cancelled";
appointment.extension.push({
  url: PROFILE + "Extension-GPConnect-AppointmentCancellationReason-1",
  valueString: "Invented reason",
});
const headers = { "If-Match": version };
const [cancelled] = await send("PUT", path, "cancel:appointment-1", "patient/*.write", appointment, headers);
console.log("appointment", cancelled.id, cancelled.status);
agent.destroy();
