/** The README's command for etcd and RabbitMQ, as it stands but for the servers: it starts what it says, and that answers. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ExchangeClient } from "../../cli/client.ts";
import { missingBackends, openTestBackends } from "../support/backends.ts";
import { ANALYST, SALARY_QUERY } from "../support/exchange.ts";
import { assertNoProcessLeft } from "../support/leaks.ts";
import { readPackageFile } from "../support/markdown.ts";
import { startUp } from "../support/running-command.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const REAL = { store: "etcd", bus: "rabbitmq", sidecar: "separate" } as const;
const skip = await missingBackends(REAL);

test(
  "npm start on etcd and RabbitMQ, with replicas and sidecars, answers the README's question",
  { skip },
  async () => {
    const line = /^npm start -- (--store .*--replicas 2)$/m.exec(await readPackageFile("README.md"))?.[1];
    assert.ok(line, "the README has such a command");
    const folder = await temporaryFolder();
    const backends = await openTestBackends(folder, REAL);
    after(() => backends.close());
    const own = line.replace("etcd://localhost:2379", backends.storeUrl).replace(/amqp:\/\/\S+/, backends.busUrl);
    const exchange = await startUp(folder, ...own.split(" "));
    try {
      for (const name of ["orchestrator-2", "policy-enforcer-2", "agent-VU-2", "agent-VU-2-sidecar"]) {
        assert.match(exchange.printed(), new RegExp(`^ *${name} is ready at`, "m"));
      }
      const answer = await new ExchangeClient(exchange.url).ask({
        type: "sqlDataRequest",
        user: ANALYST,
        dataProviders: ["VU", "UVA"],
        data_request: {
          type: "sqlDataRequest",
          query: SALARY_QUERY,
          algorithm: "average",
          algorithmColumns: { Geslacht: "Aanst_22" },
        },
      });
      assert.deepEqual(
        answer.pooled?.rows?.map(({ Geslacht }) => Geslacht),
        ["M", "V"],
      );
    } finally {
      const { code, stderr } = await exchange.interrupt();
      assert.equal(code, 0, stderr);
    }
    await assertNoProcessLeft(folder);
  },
);
