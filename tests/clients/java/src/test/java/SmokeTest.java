// Smoke tests of psmr's key-value store with Jedis, as `make clients` runs them.

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.JedisCluster;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.exceptions.JedisException;
import redis.clients.jedis.params.ScanParams;
import redis.clients.jedis.params.SetParams;

@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class SmokeTest {
    private static List<HostAndPort> addresses() {
        String found = System.getenv("PSMR_ADDRESSES");
        assertTrue(found != null, "PSMR_ADDRESSES is missing: run `make clients`");
        return Arrays.stream(found.split(",")).map(HostAndPort::from).collect(Collectors.toList());
    }

    private static Jedis connect(RedisProtocol protocol) {
        Jedis client = new Jedis(addresses().get(0), DefaultJedisClientConfig.builder().protocol(protocol).build());
        client.flushAll();
        return client;
    }

    @ParameterizedTest
    @Order(1)
    @EnumSource(RedisProtocol.class)
    void stringsBitsAndExpiry(RedisProtocol protocol) {
        try (Jedis client = connect(protocol)) {
            assertEquals("OK", client.set("k", "v", SetParams.setParams().ex(60)));
            assertEquals("v", client.get("k"));
            long ttl = client.ttl("k");
            assertTrue(ttl > 58 && ttl <= 60, "TTL is " + ttl);
            assertNull(client.set("k", "w", SetParams.setParams().nx()));
            assertEquals(5, client.incrBy("n", 5));
            assertEquals(5.5, client.incrByFloat("n", 0.5));
            assertEquals(3, client.append("k", "yz"));
            assertEquals("yz", client.getrange("k", 1, -1));
            assertEquals(false, client.setbit("bits", 7, true));
            assertEquals(1, client.bitcount("bits"));
            client.mset("a", "1", "b", "2");
            assertEquals(Arrays.asList("1", "2", null), client.mget("a", "b", "none"));
            assertEquals(2, client.del("a", "b", "none"));
            assertTrue(assertThrows(JedisDataException.class, () -> client.incr("k")).getMessage().contains("not an integer"));
            assertTrue(assertThrows(JedisDataException.class, () -> client.lpush("l", "1")).getMessage().contains("unknown command"));
        }
    }

    @ParameterizedTest
    @Order(2)
    @EnumSource(RedisProtocol.class)
    void pipelinesAndTransactions(RedisProtocol protocol) {
        try (Jedis client = connect(protocol); Jedis other = new Jedis(addresses().get(1))) {
            var pipeline = client.pipelined();
            for (int i = 0; i < 1000; i++) {
                pipeline.set("key:" + i, Integer.toString(i));
            }
            assertEquals(1000, pipeline.syncAndReturnAll().size());
            var transaction = client.multi();
            transaction.incr("key:1");
            transaction.incr("key:2");
            assertEquals(List.of(2L, 3L), transaction.exec());

            client.watch("key:1");
            other.set("key:1", "100");
            transaction = client.multi();
            transaction.set("key:1", "lost");
            assertNull(transaction.exec());
            client.watch("key:1");
            transaction = client.multi();
            transaction.set("key:1", "kept");
            assertEquals(List.of("OK"), transaction.exec());
            assertEquals("kept", other.get("key:1"));
        }
    }

    @Test
    @Order(3)
    void scanFindsEveryKey() {
        try (Jedis client = connect(RedisProtocol.RESP3)) {
            Set<String> wanted = new TreeSet<>();
            for (int i = 0; i < 500; i++) {
                wanted.add("key:" + i);
                client.set("key:" + i, "x");
            }
            Set<String> found = new TreeSet<>();
            String cursor = ScanParams.SCAN_POINTER_START;
            do {
                var page = client.scan(cursor, new ScanParams().match("key:*").count(50));
                found.addAll(page.getResult());
                cursor = page.getCursor();
            } while (!cursor.equals(ScanParams.SCAN_POINTER_START));
            assertEquals(wanted, found);
        }
    }

    @Test
    @Order(4)
    void aClientOfClusters() {
        try (JedisCluster cluster = new JedisCluster(Set.copyOf(addresses()))) {
            for (int i = 0; i < 100; i++) {
                cluster.set("{tag" + i + "}:a", Integer.toString(i));
            }
            assertEquals(8, cluster.incr("{tag7}:a"));
            assertEquals(List.of("8"), cluster.mget("{tag7}:a"));
        }
    }

    /** Last: it ends a replica, which `psmr local` starts again. */
    @Test
    @Order(5)
    void itGoesOnWithoutAReplica() throws Exception {
        List<HostAndPort> all = addresses();
        String[] processes = System.getenv("PSMR_PIDS").split(",");
        int next = 0;
        Jedis client = new Jedis(all.get(next));
        long deadline = System.nanoTime() + 30_000_000_000L;
        for (int i = 0; i < 300; i++) {
            if (i == 100) {
                ProcessHandle.of(Long.parseLong(processes[next])).orElseThrow().destroyForcibly();
            }
            while (true) {
                try {
                    client.set("number", Integer.toString(i));
                    break;
                } catch (JedisException error) {
                    assertTrue(System.nanoTime() < deadline, "no replica answers: " + error);
                    client.close();
                    Thread.sleep(50);
                    next = (next + 1) % all.size();
                    client = new Jedis(all.get(next));
                }
            }
        }
        assertEquals("299", client.get("number"));
        client.close();
    }
}
