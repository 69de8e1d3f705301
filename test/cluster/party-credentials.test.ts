/** A steward's Secret opens its own queues and keys, and nobody else's: store and broker themselves refuse the rest. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Channel } from "amqplib";
import { agreementKeys, onlineKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { withChannel, withStore } from "../support/cluster-credentials.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { kubectlJson, noCluster } from "../support/cluster-tools.ts";
import { rejectsWith } from "../support/exchange.ts";

const skip = await noCluster();

if (skip !== false) test("the credentials of a party", { skip });
else {
  const installation = await clusterInstallation();

  describe("with VU's Secret, at the broker", () => {
    test("VU-in can be looked at", () =>
      withChannel(installation, "VU", "DYNAMOS_BUS", async (channel) => {
        assert.equal((await channel.checkQueue("VU-in")).queue, "VU-in");
      }));

    for (const [what, attempt] of Object.entries<(channel: Channel) => Promise<unknown>>({
      "take from UVA-in": (channel) => channel.get("UVA-in"),
      "consume from UVA-in": (channel) => channel.consume("UVA-in", () => undefined),
      "purge UVA-in": (channel) => channel.purgeQueue("UVA-in"),
      "take from the policy enforcer's queue": (channel) => channel.get("policyEnforcer-in"),
      "take from the dead letters": (channel) => channel.get("dead-letter-queue"),
      "declare a queue of another name": (channel) => channel.assertQueue("spy"),
    })) {
      test(`nobody can ${what}`, () =>
        withChannel(installation, "VU", "DYNAMOS_BUS", (channel) => assertForbidden(attempt(channel))));
    }

    test("chains cannot take from their own agent's queue", () =>
      withChannel(installation, "VU", "DYNAMOS_CHAIN_BUS", (channel) => assertForbidden(channel.get("VU-in"))));
  });

  describe("with VU's Secret, at the store", () => {
    test("VU's agreement can be read", () =>
      withStore(installation, "VU", async (store) => {
        assert.ok(await store.get(agreementKeys.key({ steward: "VU" })));
      }));

    for (const [what, attempt] of Object.entries<(store: KnowledgeStore) => Promise<unknown>>({
      "read UVA's agreement": (store) => store.get(agreementKeys.key({ steward: "UVA" })),
      "change VU's own agreement": (store) => store.put(agreementKeys.key({ steward: "VU" }), {}),
      "be online as UVA": (store) => store.put(onlineKeys.key({ party: "UVA", instanceId: "0123abcd" }), {}),
      "list everything": (store) => store.list("/"),
    })) {
      test(`nobody can ${what}`, () =>
        withStore(installation, "VU", (store) => rejectsWith(attempt(store), "access_refused")));
    }
  });

  test("every Secret of credentials is another party's own: no two have a password in common", async () => {
    const seen = new Map<string, string>();
    for (const party of ["VU", "UVA", "SURF"]) {
      const secret = await kubectlJson<{ readonly data: Readonly<Record<string, string>> }>([
        ...["get", "secret", "dynamos-credentials", "-n", installation.namespaceOf(party)],
      ]);
      for (const [key, value] of Object.entries(secret.data).filter(([name]) => name.endsWith("-password"))) {
        assert.equal(seen.get(value), undefined, `${party} ${key}`);
        assert.ok(Buffer.from(value, "base64").length >= 32, `${party} ${key} is short`);
        seen.set(value, `${party} ${key}`);
      }
    }
    assert.equal(seen.size, 9);
  });
}

async function assertForbidden(attempt: Promise<unknown>): Promise<void> {
  await assert.rejects(attempt, (error: { readonly code?: number }) => error.code === 403);
}
