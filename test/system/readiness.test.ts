/** What the parts say at `/ready` while store and bus are away, and that they come back by themselves. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { startExchange } from "../../cli/exchange/exchange.ts";
import type { DependencyStatus } from "../../lib/http/readiness.ts";
import { noEtcdProgram, startEtcd } from "../support/etcd.ts";
import { eventually } from "../support/eventually.ts";
import { smallSample } from "../support/exchange.ts";
import { assertNoProcessLeft } from "../support/leaks.ts";
import { skipOwnRabbitMq, startOwnRabbitMq } from "../support/rabbitmq.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Leases end some seconds after the store went, and clients try again at growing intervals. */
const TIMEOUT_MS = 60_000;

interface Ready {
  readonly status: number;
  readonly tookMs: number;
  readonly dependencies: readonly DependencyStatus[];
}

async function readyOf(url: string): Promise<Ready> {
  const begin = performance.now();
  const response = await fetch(`${url}/ready`);
  const body = (await response.json()) as { readonly dependencies: readonly DependencyStatus[] };
  return { status: response.status, tookMs: performance.now() - begin, dependencies: body.dependencies };
}

const missing = noEtcdProgram() || skipOwnRabbitMq;

test(
  "a store and a bus that go away are named by every part, and are back by themselves",
  { skip: missing },
  async () => {
    const [etcd, broker] = await Promise.all([startEtcd(), startOwnRabbitMq()]);
    const vhost = await broker.vhost();
    const stateFolder = await temporaryFolder();
    const exchange = await startExchange({
      configuration: await smallSample(10),
      stateFolder,
      port: 0,
      storeUrl: etcd.url(),
      busUrl: vhost.url,
      offline: ["RUG", "UVA", "SURF"],
    });
    after(async () => {
      await exchange.stop();
      await assertNoProcessLeft(stateFolder);
      await broker.close();
      await etcd.stop();
    });
    const urls = [...exchange.services.values()].map(({ url }) => url);
    const allReady = (describe: string) =>
      eventually(
        async () => {
          for (const url of urls) {
            const { status, dependencies } = await readyOf(url);
            assert.equal(status, 200, JSON.stringify(dependencies));
            assert.ok(
              dependencies.every(({ ok }) => ok),
              JSON.stringify(dependencies),
            );
          }
          return true;
        },
        { timeoutMs: TIMEOUT_MS, intervalMs: 200, describe },
      );
    const allMiss = (name: string) =>
      eventually(
        async () => {
          for (const url of urls) {
            const { status, dependencies, tookMs } = await readyOf(url);
            const away = dependencies.find((dependency) => dependency.name === name);
            assert.equal(status, 503, JSON.stringify(dependencies));
            assert.equal(away?.ok, false, JSON.stringify(dependencies));
            assert.ok(Date.parse(away.since) <= Date.now());
            assert.match(away.fix ?? "", /DYNAMOS_(STORE|BUS)/);
            assert.ok((away.detail ?? "").length > 0);
            assert.doesNotMatch(JSON.stringify(dependencies), /guest|password/);
            // A prober waits a second; this machine may be busy.
            assert.ok(tookMs < 5_000, `${String(tookMs)} ms`);
            assert.equal((await fetch(`${url}/health`)).status, 200);
          }
          return true;
        },
        { timeoutMs: TIMEOUT_MS, intervalMs: 200, describe: `the ${name} to be missed by all` },
      );

    await allReady("all parts to be ready at first");
    await etcd.kill();
    await allMiss("knowledge store");
    await etcd.start();
    await allReady("all parts to be ready after the store came back");
    await broker.stop();
    await allMiss("message bus");
    await broker.start();
    await allReady("all parts to be ready after the bus came back");
  },
);
