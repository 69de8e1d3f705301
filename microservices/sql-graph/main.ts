/** sql-graph: lets the result pass, and adds a picture of it. */
import { onlyInput } from "../../sdk/typescript/only-input.ts";
import { runMicroservice } from "../../sdk/typescript/microservice.ts";
import { ROWS_QUESTION } from "../../sdk/typescript/rehearsal-data.ts";
import { checkChartInput } from "./chart-choice.ts";
import { GraphCollector } from "./graph.ts";

void runMicroservice({
  name: "sql-graph",
  rehearsal: { requests: [ROWS_QUESTION], rows: 12 },
  handle: async function* (inputs, { request }) {
    const { schema, batches } = onlyInput(inputs);
    checkChartInput(
      schema.fields.map(({ name }) => String(name)),
      request.graph ?? {},
    );
    const collector = new GraphCollector(schema);
    yield { schema };
    for await (const batch of batches) {
      collector.add(batch);
      yield { batch };
    }
    const { kind, svg, png } = await collector.picture(request.graph);
    yield { attachment: { name: "graph.svg", mediaType: "image/svg+xml", data: Buffer.from(svg) } };
    yield { attachment: { name: "graph.png", mediaType: "image/png", data: png } };
    yield { notes: { graph: { kind } } };
  },
});
