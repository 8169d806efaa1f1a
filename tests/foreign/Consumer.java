import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * A consumer on the JDK's own HTTP client: asks for slots and books, over HTTP/1.1 and HTTP/2, with
 * a client certificate, and prints a line an answer. Told a number, it asks for slots once and then
 * books so many times at once, over HTTP/2.
 *
 * Arguments: authority, PKCS#12 file, its password, trusted certificate, URL of the slots, its
 * token, URL of the booking, its token, and the number of bookings at once.
 */
class Consumer {
    public static void main(String[] args) throws Exception {
        SSLContext tls = tls(args[1], args[2].toCharArray(), args[3]);
        if (args.length > 8) {
            bookAtOnce(tls, args, Integer.parseInt(args[8]));
            return;
        }
        for (HttpClient.Version version : HttpClient.Version.values()) {
            HttpClient client = HttpClient.newBuilder().sslContext(tls).version(version).build();
            print(client.send(slots(args), HttpResponse.BodyHandlers.ofString()));
            print(client.send(booking(args), HttpResponse.BodyHandlers.ofString()));
        }
    }

    static void bookAtOnce(SSLContext tls, String[] args, int count) throws Exception {
        HttpClient client = HttpClient.newBuilder().sslContext(tls).version(HttpClient.Version.HTTP_2).build();
        print(client.send(slots(args), HttpResponse.BodyHandlers.ofString()));
        List<CompletableFuture<HttpResponse<String>>> bookings = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            bookings.add(client.sendAsync(booking(args), HttpResponse.BodyHandlers.ofString()));
        }
        for (CompletableFuture<HttpResponse<String>> booking : bookings) {
            try {
                print(booking.get());
            } catch (ExecutionException lost) {
                System.out.println("lost: " + lost.getCause());
            }
        }
    }

    static HttpRequest slots(String[] args) {
        return request(args[0], args[4], "search:slot-1", args[5]).GET().build();
    }

    static HttpRequest booking(String[] args) {
        HttpRequest.Builder book = request(args[0], args[6], "create:appointment-1", args[7]);
        book.header("Content-Type", "application/fhir+json;charset=utf-8");
        book.POST(HttpRequest.BodyPublishers.ofString("{\"resourceType\":\"Appointment\"}"));
        return book.build();
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
