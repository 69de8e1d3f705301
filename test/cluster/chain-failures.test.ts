/** Chains that cannot run: the analyst gets a typed error with the reason, and the operator finds an Event on the agent. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import type { GatheredAnswer } from "../../cli/client.ts";
import { toAppError, type Problem } from "../../lib/errors.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import type { Microservice } from "../../lib/model/microservice.ts";
import { assertNoChainLeft } from "../support/cluster-chains.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { apply, kubectl, kubectlJson, noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";
import { ANALYST } from "../support/exchange.ts";

const QUESTION: DataRequest = { type: "sqlDataRequest", query: "SELECT Geslacht FROM Personen LIMIT 1" };
const skip = await noCluster();

if (skip !== false) test("chains that cannot run", { skip });
else {
  const installation = await clusterInstallation();
  const { client, adminKey: token } = installation;
  const UVA = installation.namespaceOf("UVA");

  test("an image that does not exist is job_start_failed, and says which", async () => {
    await withMicroservice({ image: "localhost/dynamos-no-such-image:none" }, async () => {
      const problem = await failureOfUva();
      assert.equal(problem.code, "job_start_failed");
      assert.match(problem.detail, /image/i);
      await eventOnAgent(/image|ErrImage|Pull/i);
    });
  });

  test("too little memory is memory_limit_exceeded, and names the container", async () => {
    await withMicroservice({ resources: { memoryLimitMiB: 32 } }, async () => {
      const problem = await failureOfUva();
      assert.equal(problem.code, "memory_limit_exceeded");
      assert.match(JSON.stringify(problem), /sql-query/);
      await eventOnAgent(/memory|OOMKilled/i);
    });
  });

  test("a quota that is used up is a typed error that says so", async () => {
    const quota = { apiVersion: "v1", kind: "ResourceQuota", metadata: { name: "nothing-left", namespace: UVA } };
    await apply({ ...quota, spec: { hard: { "requests.memory": "1Mi" } } });
    const remove = (): Promise<string> =>
      kubectl(["delete", "resourcequota", "nothing-left", "-n", UVA, "--ignore-not-found"]);
    after(remove);
    const problem = await failureOfUva();
    await remove();
    assert.equal(problem.code, "job_start_failed");
    assert.match(problem.detail, /quota/i);
    await eventOnAgent(/quota/i);
  });

  describe("afterwards", () => {
    test("the same question is answered, and nothing is left of the failures", async () => {
      const answer = await eventually(async () => outcomeOf(await ask()), { timeoutMs: 30_000, intervalMs: 500 });
      assert.equal(answer, "ok");
      await assertNoChainLeft(installation, "UVA");
    });
  });

  /** Changes `sql-query` for as long as the work takes. */
  async function withMicroservice(change: Partial<Microservice>, work: () => Promise<void>): Promise<void> {
    const before = (await client.get("microservices/sql-query", { token })) as Microservice;
    await client.put("microservices", { ...before, ...change }, { token });
    try {
      await work();
    } finally {
      await client.put("microservices", before, { token });
    }
  }

  function ask(): Promise<GatheredAnswer> {
    return client.ask({ type: "sqlDataRequest", user: ANALYST, dataProviders: ["UVA"], data_request: QUESTION });
  }

  /** What the analyst is told. */
  async function failureOfUva(): Promise<Pick<Problem, "code" | "detail">> {
    const problem = await ask().then(
      ({ responses }) => responses[0]?.problem,
      (error: unknown) => {
        const { code, message, details } = toAppError(error);
        return { code, detail: `${message} ${JSON.stringify(details)}` };
      },
    );
    assert.ok(problem, "it was answered");
    return problem;
  }

  function outcomeOf({ responses }: GatheredAnswer): string {
    return responses[0]?.status ?? "";
  }

  /** Waits for a warning whose text matches, on UVA's agent or on its Job. */
  async function eventOnAgent(text: RegExp): Promise<void> {
    await eventually(
      async () => {
        const { items } = await kubectlJson<{ readonly items: readonly Event[] }>(["get", "events", "-n", UVA]);
        const ours = items.filter((event) =>
          /dynamos/i.test(event.source?.component ?? event.reportingComponent ?? ""),
        );
        return ours.some(({ type, message }) => type === "Warning" && text.test(message));
      },
      { timeoutMs: 15_000, intervalMs: 500, describe: `an Event of the agent that matches ${String(text)}` },
    );
  }
}

interface Event {
  readonly type: string;
  readonly reason: string;
  readonly message: string;
  readonly source?: { readonly component?: string };
  readonly reportingComponent?: string;
}
