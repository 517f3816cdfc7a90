import com.amazonaws.services.dynamodbv2.local.main.ServerRunner;
import com.amazonaws.services.dynamodbv2.local.server.DynamoDBProxyServer;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/** Runs DynamoDB Local on a free loopback port, which it prints; ends with its standard input. */
public class LoopbackDynamoDb {
    public static void main(String[] args) throws Exception {
        String[] options = {"-inMemory", "-port", "8000", "-disableTelemetry"};
        DynamoDBProxyServer proxy = ServerRunner.createServerFromCommandLineArgs(options);
        // It has no option for the address (it listens on all interfaces) and takes no port 0.
        var field = DynamoDBProxyServer.class.getDeclaredField("server");
        field.setAccessible(true);
        ServerConnector connector = (ServerConnector) ((Server) field.get(proxy)).getConnectors()[0];
        connector.setHost("127.0.0.1");
        connector.setPort(0);
        proxy.start();
        System.out.println("listening " + connector.getLocalPort());
        while (System.in.read() >= 0) {
            continue;
        }
        Runtime.getRuntime().halt(0);
    }
}
