// Judges one frame of raw RGB pixels from standard input, in Node.js. Once: npm install
//
//   ffmpeg -i part.png -f rawvideo -pix_fmt rgb24 - | node detect.js bolts 1280 720
//
// EDGE_AGENT_ADDRESS is the agent's address where it isn't the usual one.
'use strict';
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const PROTO = path.join(__dirname, 'edge_agent.proto'); // a copy of protos/edge_agent.proto
const ADDRESS =
  process.env.EDGE_AGENT_ADDRESS || 'unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock';
const OPTIONS = { keepCase: true, enums: String, longs: Number, defaults: true };
const LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024; // gRPC's own limit, 4 MiB, is too small for masks

const proto = grpc.loadPackageDefinition(protoLoader.loadSync(PROTO, OPTIONS));
const agent = new proto.AWS.LookoutVision.EdgeAgent(ADDRESS, grpc.credentials.createInsecure(), {
  'grpc.max_send_message_length': LARGEST_MESSAGE_BYTES,
  'grpc.max_receive_message_length': LARGEST_MESSAGE_BYTES,
});

function call(method, request) {
  const deadline = Date.now() + 30000;
  return new Promise((resolve, reject) => {
    agent[method](request, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

async function main([model, width, height]) {
  const { model_description: found } = await call('DescribeModel', { model_component: model });
  if (found.status !== 'RUNNING') await start(model);
  const reply = await call('DetectAnomalies', {
    model_component: model,
    bitmap: { width: Number(width), height: Number(height), byte_data: fs.readFileSync(0) },
  });
  const { is_anomalous, confidence } = reply.detect_anomaly_result;
  console.log(JSON.stringify({ model, is_anomalous, confidence }));
}

async function start(model) {
  await call('StartModel', { model_component: model });
  for (;;) {
    const { model_description: found } = await call('DescribeModel', { model_component: model });
    if (found.status === 'RUNNING') return;
    if (found.status !== 'STARTING') throw new Error(`${model}: ${found.status_message}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

main(process.argv.slice(2))
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => agent.close());
