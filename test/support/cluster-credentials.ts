/** Connections to the cluster's store and broker with the credentials of a Secret, as whoever holds it would make them. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { connect, type Channel } from "amqplib";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { secretValue, type Installation } from "./cluster-installation.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** The Secret that the console makes for a party. */
export const PARTY_SECRET = "dynamos-credentials";

/** Opens a channel as a party's agent (`DYNAMOS_BUS`) or its chains (`DYNAMOS_CHAIN_BUS`), and closes it after the work. */
export async function withChannel(
  installation: Installation,
  party: string,
  setting: "DYNAMOS_BUS" | "DYNAMOS_CHAIN_BUS",
  work: (channel: Channel) => Promise<void>,
): Promise<void> {
  const namespace = installation.namespaceOf(party);
  const url = new URL((await secretValue(namespace, PARTY_SECRET, setting)).replace(/^amqp/, "http"));
  const passwordKey = setting === "DYNAMOS_BUS" ? "bus-password" : "chain-bus-password";
  const { port } = await installation.forward(installation.core, "core-rabbitmq", "amqp");
  const connection = await connect({
    protocol: "amqp",
    hostname: "127.0.0.1",
    port,
    vhost: decodeURIComponent(url.pathname.slice(1)) || "/",
    username: decodeURIComponent(url.username),
    password: await secretValue(namespace, PARTY_SECRET, passwordKey),
  });
  // What a test does on purpose closes channels; the broker's reason is what the test looks at.
  connection.on("error", () => undefined);
  try {
    const channel = await connection.createChannel();
    channel.on("error", () => undefined);
    await work(channel);
  } finally {
    await connection.close();
  }
}

/** Opens the store as a party's agent, and closes it after the work. */
export async function withStore(
  installation: Installation,
  party: string,
  work: (store: KnowledgeStore) => Promise<unknown>,
): Promise<void> {
  const namespace = installation.namespaceOf(party);
  const url = new URL((await secretValue(namespace, PARTY_SECRET, "DYNAMOS_STORE")).replace(/^etcd/, "http"));
  const { port } = await installation.forward(installation.core, "core-etcd", "client");
  const passwordFile = join(await temporaryFolder(), "store-password");
  await writeFile(passwordFile, await secretValue(namespace, PARTY_SECRET, "store-password"), { mode: 0o600 });
  const here = `etcd://${url.username}@127.0.0.1:${String(port)}${url.pathname}?passwordFile=${passwordFile}`;
  const store = await openKnowledgeStore(here);
  try {
    await work(store);
  } finally {
    await store.close();
  }
}
