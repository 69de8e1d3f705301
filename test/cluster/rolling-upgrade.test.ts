/** Releases that are upgraded while analysts ask: every question is answered, right. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { assertNoChainLeft } from "../support/cluster-chains.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { podsOf } from "../support/cluster-pods.ts";
import { askUntilAnswered, NEEDS_NEW_KEY, salaryRequest } from "../support/cluster-questions.ts";
import { installAgent, installOrchestrator } from "../support/cluster-releases.ts";
import { noCluster } from "../support/cluster-tools.ts";

const ANALYSTS = 2;
const skip = await noCluster();

if (skip !== false) test("rolling upgrades", { skip });
else {
  const installation = await clusterInstallation();
  const { client, core, namespaceOf, site } = installation;

  test("an upgrade of the orchestrators and of VU's agents loses no request", async (t) => {
    const right = (await askUntilAnswered(client, salaryRequest())).answer.pooled?.rows;
    const before = await uids();
    const load = new Load(right);
    const upgraded = Promise.all([
      installOrchestrator(site, "--set", "podAnnotations.upgraded=yes"),
      installAgent(site, "VU", "--set", "podAnnotations.upgraded=yes"),
    ]);
    const analysts = Array.from({ length: ANALYSTS }, () => load.ask(upgraded));
    await upgraded;
    await Promise.all(analysts);
    t.diagnostic(
      `${String(load.answered)} questions answered, repeated because of: ${load.failures.join(", ") || "nothing"}`,
    );
    const after = await uids();
    assert.deepEqual(
      before.filter((uid) => after.includes(uid)),
      [],
      "every pod is a new one",
    );
    assert.ok(load.answered >= 2 * ANALYSTS, "a question began and ended while pods were replaced");
    assert.deepEqual(
      load.failures.filter((failure) => NEEDS_NEW_KEY.has(failure)),
      [],
      "a question was lost: it had to be asked anew, under another key",
    );
    await assertNoChainLeft(installation, "VU", "UVA");
  });

  /** The pods that are to be replaced. */
  async function uids(): Promise<string[]> {
    const pods = [
      ...(await podsOf(core, "app.kubernetes.io/name=dynamos-orchestrator")),
      ...(await podsOf(namespaceOf("VU"), "app.kubernetes.io/name=dynamos-agent")),
    ];
    return pods.map(({ uid }) => uid);
  }

  /** Analysts who ask one question after the other. */
  class Load {
    answered = 0;
    readonly failures: string[] = [];
    readonly #right: unknown;

    constructor(right: unknown) {
      this.#right = right;
    }

    async ask(work: Promise<unknown>): Promise<void> {
      const isOver = new AbortController();
      void work.then(
        () => isOver.abort(),
        () => isOver.abort(),
      );
      while (!isOver.signal.aborted) {
        const { answer, failures } = await askUntilAnswered(client, salaryRequest());
        assert.deepEqual(answer.pooled?.rows, this.#right);
        this.answered += 1;
        this.failures.push(...failures);
      }
    }
  }
}
