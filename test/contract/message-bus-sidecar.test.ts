/**
 * The message bus contract through messaging sidecars: two of them on one bus, as two deployables have them. Handles are opened at
 * one and the other in turn.
 */
import { join } from "node:path";
import { openMessageBus } from "../../lib/bus/open.ts";
import { startMessagingSidecar } from "../support/messaging-sidecar.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { testMessageBusContract } from "./message-bus.contract.ts";

testMessageBusContract("through sidecars, embedded", async () => {
  const folder = await temporaryFolder();
  const bus = `embedded:${join(folder, "bus.sqlite")}`;
  const first = await startMessagingSidecar(bus);
  const second = await startMessagingSidecar(bus, `unix:${join(folder, "sidecar.sock")}`);
  let opened = 0;
  return {
    url: first.url,
    open: () => openMessageBus(opened++ % 2 === 0 ? first.url : second.url),
    stop: async () => {
      await Promise.all([first.end(), second.end()]);
    },
  };
});
