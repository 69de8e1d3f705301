import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { connect } from "amqplib";
import { assertNoProcessLeft, processesWith } from "./leaks.ts";
import { skipOwnRabbitMq, startOwnRabbitMq } from "./rabbitmq.ts";

test(
  "a server starts, keeps its data over stop, kill and start, and leaves nothing",
  { skip: skipOwnRabbitMq },
  async () => {
    const server = await startOwnRabbitMq();
    try {
      const vhost = await server.vhost();
      for (const end of [() => server.stop(), () => server.kill()]) {
        await end();
        await server.start();
        await (await connect(vhost.url)).close();
      }
      await vhost.remove();
      await assert.rejects(connect(vhost.url));
    } finally {
      await server.close();
    }
    await assertNoProcessLeft(server.folder);
  },
);

test("nothing of a server is left when the process that started it is killed", { skip: skipOwnRabbitMq }, async () => {
  const program = `
    const { startOwnRabbitMq } = await import(${JSON.stringify(new URL("rabbitmq.js", import.meta.url).href)});
    console.log((await startOwnRabbitMq()).folder);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [folder] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  assert.ok((await processesWith(folder)).length > 0);
  child.kill("SIGKILL");
  await assertNoProcessLeft(folder);
  // The killed process could not clear up its disk.
  await rm(dirname(folder), { recursive: true });
});
