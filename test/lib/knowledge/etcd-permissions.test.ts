/** Rights against every kind of key that there is; etcd itself is asked in `test/system/least-privilege.test.ts`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { agentRights, coreRights, type EtcdRight } from "../../../lib/knowledge/etcd-permissions.ts";
import * as keys from "../../../lib/knowledge/keys.ts";

const templates = Object.values(keys).map(({ template }) => template);
const agent = agentRights({ steward: "VU", role: "dataProvider" });

function mayWrite(rights: readonly EtcdRight[], key: string): boolean {
  return rights.some((right) => right.mode === "readwrite" && right.isPrefix && key.startsWith(right.key));
}

for (const template of templates) {
  const isPartys = template.includes("{party}");
  const key = (party: string): string => template.replace("{party}", party);
  test(`${template} is written by ${isPartys ? "its party's agent" : "the core"} alone`, () => {
    assert.equal(mayWrite(agent, key("VU")), isPartys);
    assert.equal(mayWrite(coreRights(), key("VU")), !isPartys);
    for (const other of ["UVA", "VUmc", "V"]) assert.equal(mayWrite(agent, key(other)), false);
  });
}
