import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { requirePartSettings, type PartSettings } from "../../../cli/exchange/part-settings.ts";
import { partProcesses } from "../../../cli/exchange/parts.ts";

const { enforcers, orchestrators, agents } = partProcesses([{ name: "VU", dataFile: "VU.json" }], { agent: 2 });
const processes = [...enforcers, ...orchestrators, ...agents];
const check = (settings: PartSettings): void => requirePartSettings(settings, processes);

describe("settings of single parts", () => {
  test("are those of the part's program, for the part, for one of its processes, and for a sidecar", () => {
    check({
      "agent-VU": { DYNAMOS_WARM_CHAINS: "2" },
      "agent-VU-2": { DYNAMOS_CHAIN_LIFETIME: "persistent" },
      "agent-VU-sidecar": { DYNAMOS_METRICS_PORT: "0" },
      "policy-enforcer": { DYNAMOS_LOG_LEVEL: "debug" },
      orchestrator: { DYNAMOS_LOG_LEVEL: "debug" },
    });
  });

  test("of a part that there is not are refused, with those that there are", () => {
    const message = /for agent-UVA, which there is not; there are .*orchestrator, agent-VU, agent-VU-2\.$/;
    assert.throws(() => check({ "agent-UVA": {} }), { code: "configuration_invalid", message });
  });

  test("that the part does not have are refused, so that a slip of the pen is noticed", () => {
    const message = /^DYNAMOS_WARM_CHAIN is no setting of agent-VU\. .*DYNAMOS_WARM_CHAINS/;
    const settings = { "agent-VU": { DYNAMOS_WARM_CHAIN: "2" } };
    assert.throws(() => check(settings), { code: "configuration_invalid", message });
    assert.throws(() => check({ orchestrator: { DYNAMOS_WARM_CHAINS: "2" } }), { code: "configuration_invalid" });
  });
});
