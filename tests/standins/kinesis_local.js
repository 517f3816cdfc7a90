// Runs kinesis-local on a free loopback port, which it prints; ends with its standard input.
// Run in the package's own folder: it reads its certificate from there. It would listen on all interfaces and on a
// port that is set beforehand: both are decided here instead.
'use strict'
const net = require('net')

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (first, ...others) {
  const wanted = typeof first === 'object' ? first.port : first
  const done = others.filter((argument) => typeof argument === 'function')
  this.once('listening', () => {
    if (Number(wanted) === 1) process.stdout.write(`listening ${this.address().port}\n`)
  })
  return listen.call(this, { port: 0, host: '127.0.0.1' }, ...done)
}
process.env.KINESIS_MOCK_PLAIN_PORT = '1' // marks the plain server, see above
process.env.KINESIS_MOCK_TLS_PORT = '2'
process.env.LOG_LEVEL = 'ERROR'
process.env.SHARD_LIMIT = '1000'
for (const act of ['CREATE_STREAM', 'DELETE_STREAM', 'MERGE_SHARDS', 'SPLIT_SHARD', 'UPDATE_SHARD_COUNT']) {
  process.env[`${act}_DURATION`] = '20ms'
}
const exit = process.exit.bind(process) // it puts one in its place that waits for open connections
process.stdin.resume().on('end', () => exit(0))
require(process.cwd() + '/main.js')
