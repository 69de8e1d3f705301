/**
 * What the system tests run on. `STORE=etcd`, `BUS=rabbitmq` and `SIDECAR=separate` in the environment choose the real ones;
 * without them everything is embedded. Exchanges share the servers (`run-tests.ts` starts them once, or the environment names
 * them: `etcd.ts`, `rabbitmq.ts`), and are kept apart by key prefix and virtual host.
 */
import assert from "node:assert/strict";
import type { SidecarPlacement } from "../../cli/exchange/parts.ts";
import { inspectEmbeddedBus, inspectRabbitMq, type BusInspection } from "./bus-inspection.ts";
import { keysInEtcd, keysInSqlite, type StoredKey } from "./store-inspection.ts";

/** What was chosen. */
export interface BackendChoice {
  readonly store: "sqlite" | "etcd";
  readonly bus: "embedded" | "rabbitmq";
  readonly sidecar: SidecarPlacement;
}

/** The choice in an environment; fails for words that are none. */
export function chosenBackends(environment: Readonly<Record<string, string | undefined>> = process.env): BackendChoice {
  return {
    store: oneOf(["sqlite", "etcd"], "STORE", environment),
    bus: oneOf(["embedded", "rabbitmq"], "BUS", environment),
    sidecar: oneOf(["inProcess", "separate"], "SIDECAR", environment),
  };
}

/** Why tests on these backends cannot run here; false when they can. */
export async function missingBackends({ store, bus }: BackendChoice): Promise<string | false> {
  // Loaded where they are needed: most runs of a test need neither client.
  const noStore = store === "etcd" && (await import("./etcd.ts")).noEtcd();
  return noStore || (bus === "rabbitmq" && (await import("./rabbitmq.ts")).skipRabbitMq);
}

/** In words, for people. */
export function describeBackends({ store, bus, sidecar }: BackendChoice): string {
  return `store ${store}, bus ${bus}, sidecar ${sidecar}`;
}

/** Store and bus of one exchange. */
export interface TestBackends {
  readonly choice: BackendChoice;
  readonly storeUrl: string;
  readonly busUrl: string;
  readonly bus: BusInspection;
  /** What the store holds. */
  storedKeys(): Promise<readonly StoredKey[]>;
  /** Takes everything away; the server, too, if it was started for this exchange alone. */
  close(): Promise<void>;
}

/** Makes room for one exchange on what was chosen. Embedded files lie in `folder`. */
export async function openTestBackends(folder: string, choice = chosenBackends()): Promise<TestBackends> {
  const missing = await missingBackends(choice);
  assert.ok(missing === false, `These tests are to run on ${describeBackends(choice)}: ${String(missing)}`);
  const closing: (() => Promise<void>)[] = [];
  const store = choice.store === "etcd" ? await openEtcd(closing) : sqlite(folder);
  const bus = choice.bus === "rabbitmq" ? await openRabbitMq(closing) : embedded(folder);
  return {
    choice,
    ...store,
    ...bus,
    close: async () => {
      for (const close of closing.reverse()) await close();
    },
  };
}

type Closing = (() => Promise<void>)[];

async function openEtcd(closing: Closing): Promise<Pick<TestBackends, "storeUrl" | "storedKeys">> {
  const { etcdForTests } = await import("./etcd.ts");
  const etcd = await etcdForTests();
  closing.push(() => etcd.stop());
  return { storeUrl: etcd.url, storedKeys: () => keysInEtcd(etcd.url) };
}

function sqlite(folder: string): Pick<TestBackends, "storeUrl" | "storedKeys"> {
  const file = `${folder}/store.db`;
  return { storeUrl: `sqlite:${file}`, storedKeys: () => keysInSqlite(file) };
}

async function openRabbitMq(closing: Closing): Promise<Pick<TestBackends, "busUrl" | "bus">> {
  const { startRabbitMq } = await import("./rabbitmq.ts");
  const server = await startRabbitMq();
  closing.push(() => server.close());
  const vhost = await server.vhost();
  closing.push(() => vhost.remove());
  const bus = inspectRabbitMq(server, vhost);
  closing.push(() => bus.close());
  return { busUrl: vhost.url, bus };
}

function embedded(folder: string): Pick<TestBackends, "busUrl" | "bus"> {
  const file = `${folder}/bus.db`;
  return { busUrl: `embedded:${file}`, bus: inspectEmbeddedBus(file) };
}

function oneOf<Word extends string>(
  words: readonly [Word, ...Word[]],
  name: string,
  environment: Readonly<Record<string, string | undefined>>,
): Word {
  const given = environment[name] || words[0];
  const found = words.find((word) => word === given);
  assert.ok(found !== undefined, `${name}=${given}: write ${words.join(" or ")}.`);
  return found;
}
