import java.io.InputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.Base64;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.dom.DOMSource;
import javax.xml.transform.stream.StreamResult;
import javax.xml.xpath.XPathConstants;
import javax.xml.xpath.XPathFactory;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.w3c.dom.NodeList;
import org.xml.sax.InputSource;

/**
 * Books the earliest free slot for an invented patient, reads the appointment and cancels it.
 *
 * java Booking.java lab.json, with the line that `spine-proxy lab` prints in lab.json. Needs a JDK of 17 or later.
 *
 * The JDK reads XML and not JSON, so this program asks for XML. With a library such as Jackson or HAPI FHIR, use either.
 */
class Booking {
    static final String ODS = "https://fhir.nhs.uk/Id/ods-organization-code";
    static final String PROFILE = "https://fhir.nhs.uk/STU3/StructureDefinition/";
    static final String CANCELLATION = PROFILE + "Extension-GPConnect-AppointmentCancellationReason-1";

    final String proxy, root, asid, ods, practice;
    final HttpClient client;

    Booking(String lab) throws Exception {
        proxy = member(lab, "proxy", "url");
        root = member(lab, "practices", "root");
        practice = member(lab, "practices", "asid");
        asid = member(lab, "consumers", "asid");
        ods = member(lab, "consumers", "ods");
        String certificate = member(lab, "consumers", "certificate"), key = member(lab, "consumers", "key");
        client = HttpClient.newBuilder().sslContext(tls(member(lab, "authority"), certificate, key)).build();
    }

    public static void main(String[] arguments) throws Exception {
        String lab = Files.readString(Path.of(arguments[0]));
        Booking booking = new Booking(lab);
        String id = booking.book(member(lab, "patients", "nhs_number"));
        System.out.println("appointment " + id + " " + booking.cancel(id));
    }

    /** Books the earliest slot, and returns the id of the appointment. */
    String book(String nhsNumber) throws Exception {
        String find = "/Patient?identifier=https://fhir.nhs.uk/Id/nhs-number%7C" + nhsNumber;
        Document found = xml(send("GET", find, "search:patient-1", "patient/*.read", null, null));
        String patient = text(found, "//Patient/id/@value");

        // From tomorrow on, for at most fourteen days.
        LocalDate first = LocalDate.now().plusDays(1);
        String search = "/Slot?status=free&start=ge" + first + "&end=le" + first.plusDays(13)
            + "&_include=Slot:schedule&searchFilter=" + ODS + "%7C" + ods;
        Document slots = xml(send("GET", search, "search:slot-1", "organization/*.read", null, null));
        String booking = booking(slots, earliest(slots), patient);
        var booked = send("POST", "/Appointment", "create:appointment-1", "patient/*.write", booking, null);
        return text(xml(booked), "/Appointment/id/@value");
    }

    /** Reads an appointment and cancels it, and returns its status. */
    String cancel(String id) throws Exception {
        String path = "/Appointment/" + id;
        var read = send("GET", path, "read:appointment-1", "patient/*.read", null, null);
        String version = read.headers().firstValue("ETag").orElseThrow();
        String body = cancelled(xml(read));
        var cancelled = send("PUT", path, "cancel:appointment-1", "patient/*.write", body, version);
        return text(xml(cancelled), "/Appointment/status/@value");
    }

    HttpResponse<String> send(String method, String path, String interaction, String scope, String body, String version)
            throws Exception {
        // The target is one slash, the service root with its https://, and the path: HttpClient sends it as it is.
        var request = HttpRequest.newBuilder(URI.create(proxy + "/" + root + path))
            .timeout(Duration.ofSeconds(45))
            .header("Ssp-TraceID", UUID.randomUUID().toString())
            .header("Ssp-From", asid)
            .header("Ssp-To", practice)
            .header("Ssp-InteractionID", "urn:nhs:names:services:gpconnect:fhir:rest:" + interaction)
            .header("Authorization", "Bearer " + token(scope))
            .header("Accept", "application/fhir+xml")
            .header("Content-Type", "application/fhir+xml")
            .method(method, body == null ? BodyPublishers.noBody() : BodyPublishers.ofString(body));
        if (version != null) {
            request.header("If-Match", version);
        }
        HttpResponse<String> answer = client.send(request.build(), BodyHandlers.ofString());
        System.out.println(method + " " + path.split("\\?")[0] + " " + answer.statusCode());
        if (answer.statusCode() >= 300) {
            throw new IllegalStateException(answer.statusCode() + " " + answer.body());
        }
        return answer;
    }

    String token(String scope) {
        long now = Instant.now().getEpochSecond();
        String claims = """
            {"iss": "https://booking.example.nhs.uk", "sub": "1", "aud": "%s", "iat": %d, "exp": %d,
             "reason_for_request": "directcare", "requested_scope": "%s",
             "requesting_device": {"resourceType": "Device", "model": "Booking", "version": "1",
              "identifier": [{"system": "https://booking.example.nhs.uk/Id/device", "value": "1"}]},
             "requesting_organization": {"resourceType": "Organization", "name": "Invented hub",
              "identifier": [{"system": "%s", "value": "%s"}]},
             "requesting_practitioner": {"resourceType": "Practitioner", "id": "1",
              "identifier": [{"system": "https://fhir.nhs.uk/Id/sds-user-id", "value": "UNK"},
               {"system": "https://fhir.nhs.uk/Id/sds-role-profile-id", "value": "UNK"},
               {"system": "https://booking.example.nhs.uk/Id/user", "value": "1"}],
              "name": [{"family": "Invented", "given": ["User"]}]}}""".formatted(root, now, now + 300, scope, ODS, ods);
        Base64.Encoder base64 = Base64.getUrlEncoder().withoutPadding();
        String header = base64.encodeToString("{\"alg\":\"none\",\"typ\":\"JWT\"}".getBytes());
        return header + "." + base64.encodeToString(claims.getBytes()) + ".";
    }

    static Node earliest(Document found) throws Exception {
        NodeList slots = (NodeList) at(found, "//Slot", XPathConstants.NODESET);
        Node earliest = null;
        for (int number = 0; number < slots.getLength(); number++) {
            Node slot = slots.item(number);
            if (earliest == null || start(slot).isBefore(start(earliest))) {
                earliest = slot;
            }
        }
        return earliest;
    }

    static OffsetDateTime start(Node slot) throws Exception {
        return OffsetDateTime.parse(text(slot, "start/@value"));
    }

    String booking(Document found, Node slot, String patient) throws Exception {
        String schedule = text(slot, "schedule/reference/@value").replace("Schedule/", "");
        String location = text(found, "//Schedule[id/@value = '" + schedule
            + "']/actor/reference[starts-with(@value, 'Location/')]/@value");
        // The order of the elements is that of FHIR.
        return """
            <Appointment xmlns="http://hl7.org/fhir">
              <meta><profile value="%1$sGPConnect-Appointment-1"/></meta>
              <contained><Organization>
                <id value="1"/>
                <meta><profile value="%1$sCareConnect-GPC-Organization-1"/></meta>
                <identifier><system value="%2$s"/><value value="%3$s"/></identifier>
                <name value="Invented hub"/>
                <telecom><system value="phone"/><value value="0300 000 0000"/></telecom>
              </Organization></contained>
              <extension url="%1$sExtension-GPConnect-BookingOrganisation-1">
                <valueReference><reference value="#1"/></valueReference>
              </extension>
              <status value="booked"/>
              <description value="Invented appointment"/>
              <start value="%4$s"/>
              <end value="%5$s"/>
              <slot><reference value="Slot/%6$s"/></slot>
              <created value="%7$s+00:00"/>
              <participant><actor><reference value="Patient/%8$s"/></actor><status value="accepted"/></participant>
              <participant><actor><reference value="%9$s"/></actor><status value="accepted"/></participant>
            </Appointment>""".formatted(PROFILE, ODS, ods, text(slot, "start/@value"), text(slot, "end/@value"),
            text(slot, "id/@value"), Instant.now().toString().substring(0, 19), patient, location);
    }

    static String cancelled(Document appointment) throws Exception {
        ((Element) at(appointment, "/Appointment/status", XPathConstants.NODE)).setAttribute("value", "cancelled");
        Element extension = appointment.createElement("extension"), reason = appointment.createElement("valueString");
        extension.setAttribute("url", CANCELLATION);
        reason.setAttribute("value", "Invented reason");
        extension.appendChild(reason);
        Node first = (Node) at(appointment, "/Appointment/extension[1]", XPathConstants.NODE);
        appointment.getDocumentElement().insertBefore(extension, first);
        StringWriter text = new StringWriter();
        TransformerFactory.newInstance().newTransformer().transform(new DOMSource(appointment), new StreamResult(text));
        return text.toString();
    }

    static Document xml(HttpResponse<String> answer) throws Exception {
        var factory = DocumentBuilderFactory.newInstance();
        factory.setFeature("http://apache.org/xml/features/disallow-doctype-decl", true);
        return factory.newDocumentBuilder().parse(new InputSource(new StringReader(answer.body())));
    }

    static Object at(Node node, String path, javax.xml.namespace.QName kind) throws Exception {
        return XPathFactory.newInstance().newXPath().evaluate(path, node, kind);
    }

    static String text(Node node, String path) throws Exception {
        return (String) at(node, path, XPathConstants.STRING);
    }

    static SSLContext tls(String authority, String certificate, String key) throws Exception {
        var x509 = CertificateFactory.getInstance("X.509");
        KeyStore trusted = KeyStore.getInstance("PKCS12"), own = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        own.load(null, null);
        try (InputStream pem = Files.newInputStream(Path.of(authority))) {
            trusted.setCertificateEntry("authority", x509.generateCertificate(pem));
        }
        // The lab's keys are on a curve. RSA keys need "RSA" here, and files of PKCS#12 own.load(file, password) alone.
        byte[] der = Base64.getDecoder().decode(Files.readString(Path.of(key)).replaceAll("-----[A-Z ]+-----|\\s", ""));
        PrivateKey secret = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(der));
        try (InputStream pem = Files.newInputStream(Path.of(certificate))) {
            Certificate[] chain = x509.generateCertificates(pem).toArray(Certificate[]::new);
            own.setKeyEntry("consumer", secret, new char[0], chain);
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        var keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, new char[0]);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return tls;
    }

    /** Returns a text of the lab's line: the first with the last name after the others. */
    static String member(String lab, String... names) {
        String pattern = "\"" + String.join("\":.*?\"", names) + "\":\"([^\"]*)\"";
        Matcher found = Pattern.compile(pattern).matcher(lab);
        if (!found.find()) {
            throw new IllegalArgumentException("the lab has no " + String.join(".", names));
        }
        return found.group(1);
    }
}
