// Books the earliest free slot for an invented patient, reads the appointment and cancels it.
//
// dotnet run -- lab.json, with the line that `spine-proxy lab` prints in lab.json. Needs .NET 8 or later.

using System.Globalization;
using System.Net.Security;
using System.Security.Cryptography.X509Certificates;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

const string Ods = "https://fhir.nhs.uk/Id/ods-organization-code";
const string Profile = "https://fhir.nhs.uk/STU3/StructureDefinition/";

JsonNode lab = JsonNode.Parse(File.ReadAllText(args[0]))!;
JsonNode consumer = lab["consumers"]![0]!, practice = lab["practices"]![0]!;
JsonNode patient = lab["patients"]!.AsArray().First(one => Text(one!, "registration") == "registered")!;

using X509Certificate2 own = X509Certificate2.CreateFromPemFile(Text(consumer, "certificate"), Text(consumer, "key"));
X509Certificate2Collection chain = new(), trusted = new();
chain.ImportFromPemFile(Text(consumer, "certificate"));
trusted.ImportFromPemFile(Text(lab, "authority"));
X509ChainPolicy policy = new()
{
    TrustMode = X509ChainTrustMode.CustomRootTrust,
    RevocationMode = X509RevocationMode.NoCheck,
};
policy.CustomTrustStore.AddRange(trusted);
using HttpClient client = new(new SocketsHttpHandler
{
    SslOptions = new SslClientAuthenticationOptions
    {
        // With the whole chain: a certificate in ClientCertificates may be sent without the one of its issuer.
        ClientCertificateContext = SslStreamCertificateContext.Create(own, chain, true),
        CertificateChainPolicy = policy,
    },
});
client.Timeout = TimeSpan.FromSeconds(45);

string number = $"https://fhir.nhs.uk/Id/nhs-number%7C{Text(patient, "nhs_number")}";
var (found, _) = await Send("GET", $"/Patient?identifier={number}", "search:patient-1", "patient/*.read");
string patientId = Text(Resources(found, "Patient").First(), "id");

// From tomorrow on, for at most fourteen days.
string Day(int after) => DateTime.Today.AddDays(after).ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
string query = $"status=free&start=ge{Day(1)}&end=le{Day(14)}&_include=Slot:schedule";
string filter = $"searchFilter={Ods}%7C{Text(consumer, "ods")}";
(found, _) = await Send("GET", $"/Slot?{query}&{filter}", "search:slot-1", "organization/*.read");
JsonNode slot = Resources(found, "Slot").MinBy(one => DateTimeOffset.Parse(Text(one, "start"), CultureInfo.InvariantCulture))!;
string reference = Text(slot["schedule"]!, "reference");
JsonNode schedule = Resources(found, "Schedule").First(one => $"Schedule/{Text(one, "id")}" == reference);
string location = schedule["actor"]!.AsArray().Select(actor => Text(actor!, "reference"))
    .First(actor => actor.StartsWith("Location/", StringComparison.Ordinal));

var (booked, _) = await Send("POST", "/Appointment", "create:appointment-1", "patient/*.write", new
{
    resourceType = "Appointment",
    meta = new { profile = new[] { Profile + "GPConnect-Appointment-1" } },
    contained = new[]
    {
        new
        {
            resourceType = "Organization",
            id = "1",
            meta = new { profile = new[] { Profile + "CareConnect-GPC-Organization-1" } },
            identifier = new[] { new { system = Ods, value = Text(consumer, "ods") } },
            name = "Invented hub",
            telecom = new[] { new { system = "phone", value = "0300 000 0000" } },
        },
    },
    extension = new[]
    {
        new
        {
            url = Profile + "Extension-GPConnect-BookingOrganisation-1",
            valueReference = new { reference = "#1" },
        },
    },
    status = "booked",
    description = "Invented appointment",
    start = Text(slot, "start"),
    end = Text(slot, "end"),
    slot = new[] { new { reference = $"Slot/{Text(slot, "id")}" } },
    created = DateTime.UtcNow.ToString("yyyy-MM-ddTHH:mm:ss+00:00", CultureInfo.InvariantCulture),
    participant = new[]
    {
        new { actor = new { reference = $"Patient/{patientId}" }, status = "accepted" },
        new { actor = new { reference = location }, status = "accepted" },
    },
});

string path = $"/Appointment/{Text(booked, "id")}";
var (appointment, version) = await Send("GET", path, "read:appointment-1", "patient/*.read");
appointment["status"] = "cancelled";
appointment["extension"]!.AsArray().Add(new JsonObject
{
    ["url"] = Profile + "Extension-GPConnect-AppointmentCancellationReason-1",
    ["valueString"] = "Invented reason",
});
var (cancelled, _) = await Send("PUT", path, "cancel:appointment-1", "patient/*.write", appointment, version);
Console.WriteLine($"appointment {Text(cancelled, "id")} {Text(cancelled, "status")}");

async Task<(JsonNode Body, string? Version)> Send(
    string method, string path, string interaction, string scope, object? body = null, string? version = null)
{
    // The target is one slash, the service root with its https://, and the path: Uri leaves both slashes of it.
    Uri target = new($"{Text(lab["proxy"]!, "url")}/{Text(practice, "root")}{path}");
    using HttpRequestMessage request = new(new HttpMethod(method), target);
    request.Headers.Add("Ssp-TraceID", Guid.NewGuid().ToString());
    request.Headers.Add("Ssp-From", Text(consumer, "asid"));
    request.Headers.Add("Ssp-To", Text(practice, "asid"));
    request.Headers.Add("Ssp-InteractionID", $"urn:nhs:names:services:gpconnect:fhir:rest:{interaction}");
    request.Headers.Add("Authorization", $"Bearer {Token(scope)}");
    request.Headers.Add("Accept", "application/fhir+json");
    if (version != null) request.Headers.Add("If-Match", version);
    if (body != null)
    {
        request.Content = new StringContent(JsonSerializer.Serialize(body), Encoding.UTF8, "application/fhir+json");
    }
    using HttpResponseMessage answer = await client.SendAsync(request);
    string text = await answer.Content.ReadAsStringAsync();
    Console.WriteLine($"{method} {path.Split('?')[0]} {(int)answer.StatusCode}");
    if (!answer.IsSuccessStatusCode) throw new InvalidOperationException(text);
    return (JsonNode.Parse(text)!, answer.Headers.ETag?.ToString());
}

string Token(string scope)
{
    long now = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
    string claims = JsonSerializer.Serialize(new
    {
        iss = "https://booking.example.nhs.uk",
        sub = "1",
        aud = Text(practice, "root"),
        iat = now,
        exp = now + 300,
        reason_for_request = "directcare",
        requested_scope = scope,
        requesting_device = new
        {
            resourceType = "Device",
            identifier = new[] { new { system = "https://booking.example.nhs.uk/Id/device", value = "1" } },
            model = "Booking",
            version = "1",
        },
        requesting_organization = new
        {
            resourceType = "Organization",
            identifier = new[] { new { system = Ods, value = Text(consumer, "ods") } },
            name = "Invented hub",
        },
        requesting_practitioner = new
        {
            resourceType = "Practitioner",
            id = "1",
            identifier = new[]
            {
                new { system = "https://fhir.nhs.uk/Id/sds-user-id", value = "UNK" },
                new { system = "https://fhir.nhs.uk/Id/sds-role-profile-id", value = "UNK" },
                new { system = "https://booking.example.nhs.uk/Id/user", value = "1" },
            },
            name = new[] { new { family = "Invented", given = new[] { "User" } } },
        },
    });
    return $"{Base64Url("{\"alg\":\"none\",\"typ\":\"JWT\"}")}.{Base64Url(claims)}.";
}

static string Base64Url(string text) =>
    Convert.ToBase64String(Encoding.UTF8.GetBytes(text)).TrimEnd('=').Replace('+', '-').Replace('/', '_');

static string Text(JsonNode node, string name) => node[name]!.GetValue<string>();

static IEnumerable<JsonNode> Resources(JsonNode bundle, string kind) =>
    bundle["entry"]!.AsArray().Select(entry => entry!["resource"]!).Where(one => Text(one, "resourceType") == kind);
