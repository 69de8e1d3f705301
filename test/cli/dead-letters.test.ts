/** `dynamos dead-letters`, as it is run, on each bus. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { openMessageBus } from "../../lib/bus/open.ts";
import { nameOf, newQueue, nextDeadLetters, take } from "../support/bus.ts";
import { dynamos } from "../support/command.ts";
import { skipRabbitMq, startRabbitMq } from "../support/rabbitmq.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const BODY = "SELECT secret FROM people";

describe("dynamos dead-letters", () => {
  test("on the embedded bus lists and shows without bodies, and replays one", async () => {
    const state = await temporaryFolder();
    await tryCommand(`embedded:${join(state, "bus.db")}`, ["--state", state]);
  });

  test("on RabbitMQ lists and shows without bodies, and replays one", { skip: skipRabbitMq }, async () => {
    const server = await startRabbitMq();
    try {
      const vhost = await server.vhost();
      await tryCommand(vhost.url, ["--bus", vhost.url]);
      await vhost.remove();
    } finally {
      await server.close();
    }
  });

  test("a bus that is not there is not made, and a wrong word is refused", async () => {
    const state = await temporaryFolder();
    const nowhere = await dynamos("dead-letters", "--state", state);
    assert.equal(nowhere.code, 1);
    assert.match(nowhere.stderr, /no bus at .*\[not_found\]/);
    const wrong = await dynamos("dead-letters", "replay", "--state", state);
    assert.match(wrong.stderr, /invalid_argument/);
  });
});

async function tryCommand(url: string, where: readonly string[]): Promise<void> {
  const bus = await openMessageBus(url);
  const queue = await newQueue(bus);
  const none = await dynamos("dead-letters", ...where);
  assert.equal(none.stdout, "No dead letters.\n", none.stderr);
  for (const messageId of ["first", "second"]) {
    await bus.publish(queue, { type: "sqlDataRequest", body: Buffer.from(BODY), messageId, correlationId: "c" });
  }
  await take(bus, queue, 2, 1, "reject");
  const letters = await nextDeadLetters(bus, queue, 2);

  const listed = await dynamos("dead-letters", "list", ...where);
  assert.equal(listed.code, 0, listed.stderr);
  const [head, ...rows] = listed.stdout.trim().split("\n");
  assert.match(head!, /^id +age +queue +type +reason +bytes$/);
  assert.equal(rows.length, 2);
  const id = letters[1]!.id;
  assert.match(rows[1]!, new RegExp(`^ *${id} +\\d+ s +${queue} +sqlDataRequest +rejected +${BODY.length}$`));

  const shown = await dynamos("dead-letters", "show", id, "--json", ...where);
  const facts = JSON.parse(shown.stdout) as Record<string, unknown>;
  assert.equal(facts["messageId"], "second");
  assert.equal(facts["correlationId"], "c");
  assert.doesNotMatch(listed.stdout + shown.stdout, /SELECT|secret/);

  const replayed = await dynamos("dead-letters", "replay", id, ...where);
  assert.equal(replayed.code, 0, replayed.stderr);
  const [received] = await take(bus, queue, 1);
  assert.deepEqual([received!.messageId, nameOf(received!)], ["second", BODY]);
  assert.equal((await nextDeadLetters(bus, queue, 1)).length, 1);
  const again = await dynamos("dead-letters", "replay", id, ...where);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /\[not_found\]/);
  await bus.close();
}
