// Smoke tests of psmr's key-value store with node-redis, as `make clients` runs them.
import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { createClient, createCluster, WatchError } from "redis";

const addresses = (process.env.PSMR_ADDRESSES ?? "").split(",").filter(Boolean);
assert.ok(addresses.length > 0, "PSMR_ADDRESSES is missing: run `make clients`");

for (const RESP of [2, 3]) {
  describe(`RESP${RESP}`, () => {
    const client = createClient({ url: `redis://${addresses[0]}`, RESP });
    before(() => client.connect());
    beforeEach(() => client.flushAll());
    after(() => client.close());

    test("strings, bits and expiry", async () => {
      assert.equal(await client.set("k", "v", { expiration: { type: "EX", value: 60 } }), "OK");
      assert.equal(await client.get("k"), "v");
      const ttl = await client.ttl("k");
      assert.ok(ttl > 58 && ttl <= 60, `TTL is ${ttl}`);
      assert.equal(await client.set("k", "w", { condition: "NX" }), null);
      assert.equal(await client.incrBy("n", 5), 5);
      assert.equal(Number(await client.incrByFloat("n", 0.5)), 5.5);
      assert.equal(await client.append("k", "yz"), 3);
      assert.equal(await client.getRange("k", 1, -1), "yz");
      assert.equal(await client.setBit("bits", 7, 1), 0);
      assert.equal(await client.bitCount("bits"), 1);
      await client.mSet({ a: "1", b: "2" });
      assert.deepEqual(await client.mGet(["a", "b", "none"]), ["1", "2", null]);
      assert.equal(await client.del(["a", "b", "none"]), 2);
      await assert.rejects(client.incr("k"), /not an integer/);
      await assert.rejects(client.lPush("list", "1"), /unknown command/);
    });

    test("pipelines and transactions", async () => {
      await Promise.all(Array.from({ length: 1000 }, (_, i) => client.set(`key:${i}`, String(i))));
      assert.deepEqual(await client.multi().incr("key:1").incr("key:2").exec(), [2, 3]);

      const move = (interfere) =>
        client.executeIsolated === undefined ? isolated(move.body(interfere)) : client.executeIsolated(move.body(interfere));
      move.body = (interfere) => async (own) => {
        await own.watch("key:1");
        const one = Number(await own.get("key:1"));
        if (interfere) await client.set("key:1", "100");
        return own.multi().set("key:1", String(one - 1)).incr("key:2").exec();
      };
      await assert.rejects(move(true), WatchError);
      assert.deepEqual(await move(false), ["OK", 4]);
      assert.deepEqual(await client.mGet(["key:1", "key:2"]), ["99", "4"]);
    });

    async function isolated(body) {
      const own = client.duplicate();
      await own.connect();
      try {
        return await body(own);
      } finally {
        await own.close();
      }
    }

    test("SCAN finds every key", async () => {
      const wanted = Array.from({ length: 500 }, (_, i) => `key:${i}`);
      await Promise.all(wanted.map((key) => client.set(key, "x")));
      const found = [];
      for await (const keys of client.scanIterator({ MATCH: "key:*", COUNT: 50 })) found.push(...[keys].flat());
      assert.deepEqual(found.sort(), wanted.sort());
    });
  });
}

test("a client of clusters", async () => {
  const cluster = createCluster({ rootNodes: addresses.map((address) => ({ url: `redis://${address}` })) });
  await cluster.connect();
  try {
    for (let i = 0; i < 100; i++) await cluster.set(`{tag${i}}:a`, String(i));
    assert.deepEqual(await cluster.multi().incr("{tag7}:a").set("{tag7}:b", "x").exec(), [8, "OK"]);
    assert.equal(await cluster.get("{tag7}:a"), "8");
  } finally {
    await cluster.close();
  }
});

// Last: it ends a replica, which `psmr local` starts again.
test("it goes on without a replica", { timeout: 30_000 }, async () => {
  let next = 0;
  const dial = async () => {
    for (;;) {
      next = (next + 1) % addresses.length;
      const client = createClient({
        url: `redis://${addresses[next]}`,
        socket: { reconnectStrategy: false, connectTimeout: 1000 },
      });
      client.on("error", () => {});
      try {
        await client.connect();
        return client;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  };
  let client = await dial();
  for (let i = 0; i < 300; i++) {
    if (i === 100) process.kill(Number(process.env.PSMR_PIDS.split(",")[next]), "SIGKILL");
    for (;;) {
      try {
        await client.set("number", String(i));
        break;
      } catch {
        client = await dial();
      }
    }
  }
  assert.equal(await client.get("number"), "299");
  client.destroy();
});
