import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * A consumer on the JDK's own HTTP client: asks for slots and books, over HTTP/1.1 and HTTP/2, with
 * a client certificate, and prints a line an answer.
 *
 * Arguments: authority, PKCS#12 file, its password, trusted certificate, URL of the slots, its
 * token, URL of the booking, its token.
 */
class Consumer {
    public static void main(String[] args) throws Exception {
        SSLContext tls = tls(args[1], args[2].toCharArray(), args[3]);
        for (HttpClient.Version version : HttpClient.Version.values()) {
            HttpClient client = HttpClient.newBuilder().sslContext(tls).version(version).build();
            HttpRequest.Builder slots = request(args[0], args[4], "search:slot-1", args[5]);
            print(client.send(slots.GET().build(), HttpResponse.BodyHandlers.ofString()));
            HttpRequest.Builder book = request(args[0], args[6], "create:appointment-1", args[7]);
            book.header("Content-Type", "application/fhir+json;charset=utf-8");
            book.POST(HttpRequest.BodyPublishers.ofString("{\"resourceType\":\"Appointment\"}"));
            print(client.send(book.build(), HttpResponse.BodyHandlers.ofString()));
        }
    }

    static HttpRequest.Builder request(String proxy, String url, String interaction, String token) {
        return HttpRequest.newBuilder(URI.create("https://" + proxy + "/" + url))
            .header("Ssp-TraceID", "09a01679-2564-4fb4-9129-aecc81ea2706")
            .header("Ssp-From", "200000000359")
            .header("Ssp-To", "918999198993")
            .header("Ssp-InteractionID", "urn:nhs:names:services:gpconnect:fhir:rest:" + interaction)
            .header("Accept", "application/fhir+json")
            .header("Authorization", "Bearer " + token);
    }

    static void print(HttpResponse<String> answer) {
        String method = answer.request().method();
        System.out.println(method + " " + answer.version() + " " + answer.statusCode() + " " + answer.body());
    }

    static SSLContext tls(String file, char[] password, String authority) throws Exception {
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (FileInputStream in = new FileInputStream(file)) {
            own.load(in, password);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, password);
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        try (FileInputStream in = new FileInputStream(authority)) {
            trusted.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return tls;
    }
}
